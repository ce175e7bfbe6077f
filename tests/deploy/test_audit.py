"""deploy/audit.py: which advisories fail the build, and what happens where no advisory service can be reached."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy import audit
from deploy.audit import Accepted, AuditFailed, Unreachable, is_accepted, read_accepted, read_report

TODAY = date(2026, 12, 1)
NOWHERE = "http://127.0.0.1:9"  # nothing listens there


def entry(review: str = "2027-01-31", reason: str = "never called", **more: str) -> str:
    lines = {"id": '"CVE-2026-1"', "package": '"Some.Package"', "reason": f'"{reason}"', "review": review, **more}
    return "[[advisory]]\n" + "\n".join(f"{name} = {value}" for name, value in lines.items())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", None),
        (entry(), None),
        (entry("2026-12-01"), None),
        (entry("2026-11-30"), "its review was due on 2026-11-30"),
        (entry("2027-12-01"), "more than half a year ahead"),
        (entry('"2027-01-31"'), "without quotes"),
        (entry("2027-01-31T00:00:00"), "without quotes"),
        (entry(reason=" "), "the reason is empty"),
        (entry(until="2027-01-31"), "an advisory has id, package, reason and review"),
    ],
)
def test_accepted_advisories_need_a_reason_and_a_review_in_time(tmp_path: Path, text: str, fault: str | None) -> None:
    file = tmp_path / "accepted.toml"
    file.write_text(text)
    _, faults = read_accepted(file, TODAY)
    assert len(faults) == (fault is not None)
    assert fault is None or fault in faults[0]


@pytest.fixture
def accepted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(audit, "REPOSITORY", tmp_path)
    monkeypatch.setattr(audit, "ACCEPTED", tmp_path / "accepted.toml")
    return audit.ACCEPTED


def test_overdue_review_fails_the_build_without_a_network(
    accepted_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted_file.write_text(entry("2020-01-01"))
    assert audit.main(["--reviews"]) == 1
    assert audit.main(["--if-reachable"]) == 1
    assert "its review was due on 2020-01-01" in capsys.readouterr().err
    accepted_file.write_text("")
    assert audit.main(["--reviews"]) == 0


def test_no_review_is_overdue() -> None:
    assert audit.main(["--reviews"]) == 0


def report(**package: Any) -> dict[str, Any]:
    return {"dependencies": [{"name": "fine", "version": "1", "vulns": []}, {"name": "some-package", **package}]}


FOUND = report(version="1.0", vulns=[{"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["1.1"]}])


def test_an_advisory_is_accepted_by_any_of_its_numbers_for_its_package_only() -> None:
    (finding,) = read_report(FOUND)
    assert str(finding) == "some-package 1.0: PYSEC-2026-1 CVE-2026-1 (fixed in 1.1)"
    assert is_accepted(finding, [Accepted("CVE-2026-1", "Some.Package", "never called", TODAY)])
    assert is_accepted(finding, [Accepted("PYSEC-2026-1", "some-package", "never called", TODAY)])
    assert not is_accepted(finding, [Accepted("CVE-2026-1", "another", "never called", TODAY)])
    assert not is_accepted(finding, [Accepted("CVE-2026-2", "some-package", "never called", TODAY)])


def test_a_package_without_data_is_not_a_package_without_advisories() -> None:
    with pytest.raises(AuditFailed, match="no data about 1 of 2 packages, such as some-package"):
        read_report(report(skip_reason="not found"))
    with pytest.raises(Unreachable, match="no data about 1 of 1 packages"):
        read_report({"dependencies": [{"name": "fine", "skip_reason": "not found"}]})


@pytest.mark.parametrize(("accepted", "status"), [("", 1), (entry(str(date.today() + timedelta(30))), 0)])
def test_an_advisory_that_is_not_accepted_fails_the_audit(
    accepted_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    accepted: str,
    status: int,
) -> None:
    accepted_file.write_text(accepted)
    monkeypatch.setattr(audit, "query_any", lambda locks: read_report(FOUND))
    assert audit.main([]) == status
    assert ("PYSEC-2026-1" in capsys.readouterr().err) == bool(status)


def test_without_an_advisory_service_the_audit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real pip-audit."""
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"packaging==25.0 --hash=sha256:{'0' * 64}\n")
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(audit, "LOCKS", [lock])
    assert audit.main(["--if-reachable"]) == 0
    assert "the locked packages were NOT audited: no advisory service can be reached (osv: " in capsys.readouterr().err
    assert audit.main([]) == 2
    lock.write_text("packaging>=25.0\n")
    assert audit.main(["--if-reachable"]) == 1, "pip-audit rejects the lock"
