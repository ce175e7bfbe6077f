"""`python -m deploy.audit`: check the locked packages against published advisories, with pip-audit.

It exits with 0 if every advisory is accepted in accepted-advisories.toml, 1 if one is not, a review is overdue or the audit
fails, and 2 if no advisory service can be reached.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
LOCKS = (REPOSITORY / "requirements.lock", REPOSITORY / "deploy" / "requirements.lock")
ACCEPTED = REPOSITORY / "deploy" / "accepted-advisories.toml"
SERVICES = ("osv", "pypi")  # as pip-audit names them; the second one is queried only if the first cannot be reached
LONGEST_REVIEW = timedelta(days=184)
# The last line that pip-audit prints if it cannot use the network.
NETWORK = re.compile(r"requests\.exceptions\.|ServiceError|ConnectionError|your network may be blocking")

FINE, REFUSED, UNREACHABLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Accepted:
    """An advisory that a person has judged harmless here, until the day of its next review."""

    id: str
    package: str
    reason: str
    review: date


@dataclass(frozen=True, slots=True)
class Finding:
    """An advisory about the locked version of a package, with its number in each database."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no version has a fix"
        return f"{self.package} {self.version}: {' '.join(self.ids)} ({fix})"


class Unreachable(Exception):
    """No advisory service gave an answer."""


class AuditFailed(Exception):
    """The locks could not be audited, although the service may be reachable."""


def read_accepted(path: Path, today: date) -> tuple[list[Accepted], list[str]]:
    """Return the accepted advisories, and what is wrong with the file on that day."""
    accepted, faults = [], []
    for entry in tomllib.loads(path.read_text()).get("advisory", []):
        try:
            each = Accepted(**entry)
        except TypeError:
            faults.append(f"{entry}: an advisory has id, package, reason and review")
            continue
        if not isinstance(each.review, date) or isinstance(each.review, datetime):
            faults.append(f"{each.id}: review is a date such as 2027-02-28, without quotes")
        elif not each.reason.strip():
            faults.append(f"{each.id}: the reason is empty")
        elif each.review < today:
            faults.append(f"{each.id} in {each.package}: its review was due on {each.review}")
        elif each.review > today + LONGEST_REVIEW:
            faults.append(f"{each.id} in {each.package}: the review on {each.review} is more than half a year ahead")
        accepted.append(each)
    return accepted, faults


def is_accepted(finding: Finding, accepted: Iterable[Accepted]) -> bool:
    name = canonicalize_name(finding.package)
    return any(each.id in finding.ids and canonicalize_name(each.package) == name for each in accepted)


def read_report(report: dict[str, Any]) -> list[Finding]:
    """Read pip-audit's JSON.

    Raises Unreachable if its service has data about no package: pip-audit calls that a success, and a package mirror may
    serve no advisories. Raises AuditFailed if only some packages were left out.
    """
    packages = report["dependencies"]
    if skipped := [each["name"] for each in packages if "skip_reason" in each]:
        message = f"no data about {len(skipped)} of {len(packages)} packages, such as {skipped[0]}"
        raise Unreachable(message) if len(skipped) == len(packages) else AuditFailed(message)
    return [
        Finding(
            package["name"],
            package["version"],
            (each["id"], *each.get("aliases", ())),
            tuple(each["fix_versions"]),
        )
        for package in packages
        for each in package["vulns"]
    ]


def query(service: str, locks: Sequence[Path]) -> list[Finding]:
    """Run pip-audit on the locks. Raises Unreachable if the service does not answer, AuditFailed if pip-audit fails."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    command += ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--desc", "off", "--aliases", "on"]
    command += [word for lock in locks for word in ("--requirement", str(lock))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # pip-audit on our locks
    if done.stdout:  # it prints its report also with findings
        return read_report(json.loads(done.stdout))
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise Unreachable(reason) if NETWORK.search(reason) else AuditFailed(reason)


def query_any(locks: Sequence[Path]) -> list[Finding]:
    """Query the first service that answers. Raises Unreachable, with the reason of each service, if there is none."""
    reasons = []
    for service in SERVICES:
        try:
            return query(service, locks)
        except Unreachable as error:
            reasons.append(f"{service}: {error}")
    raise Unreachable("; ".join(reasons))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="check the locked packages against published advisories")
    parser.add_argument("--if-reachable", action="store_true", help="succeed if no advisory service can be reached")
    parser.add_argument("--reviews", action="store_true", help="only check the review dates, which needs no network")
    chosen = parser.parse_args(arguments)

    accepted, faults = read_accepted(ACCEPTED, datetime.now(UTC).date())
    for fault in faults:
        print(f"{ACCEPTED.relative_to(REPOSITORY)}: {fault}", file=sys.stderr)
    if faults or chosen.reviews:
        return REFUSED if faults else FINE
    try:
        findings = query_any(LOCKS)
    except Unreachable as error:
        print(f"the locked packages were NOT audited: no advisory service can be reached ({error})", file=sys.stderr)
        return FINE if chosen.if_reachable else UNREACHABLE
    except AuditFailed as error:
        print(f"the locked packages could not be audited: {error}", file=sys.stderr)
        return REFUSED
    refused = [finding for finding in findings if not is_accepted(finding, accepted)]
    for finding in refused:
        print(finding, file=sys.stderr)
    if refused:
        print(f"upgrade these packages (make lock), or accept the advisories in {ACCEPTED.name}", file=sys.stderr)
        return REFUSED
    print(f"the locked packages have no advisories but {len(findings)} accepted ones")
    return FINE


if __name__ == "__main__":
    sys.exit(main())
