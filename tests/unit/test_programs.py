"""A missing program skips a test on a laptop and fails it in CI."""

import shutil

import pytest

from tests.support.programs import require_program


def test_program_is_found() -> None:
    assert require_program("sh") == shutil.which("sh")


@pytest.mark.parametrize(("required", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_missing_program(monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv("REQUIRE_PROGRAMS", required)
    with pytest.raises(outcome, match="no-such-program is not installed"):
        require_program("no-such-program")
