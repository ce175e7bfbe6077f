"""Programs that some tests need and that are not Python packages."""

import os
import shutil

import pytest


def require_program(name: str) -> str:
    """Return the program's path. If it is missing, skip the test, or fail it when REQUIRE_PROGRAMS=1 is set."""
    if path := shutil.which(name):
        return path
    reason = f"{name} is not installed; on Debian: apt-get install, see .ci/run"
    if os.environ.get("REQUIRE_PROGRAMS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
