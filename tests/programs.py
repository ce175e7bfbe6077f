"""Programs that some tests need and that Python's packages do not bring."""

import os
import shutil

import pytest


def require_program(name: str) -> str:
    """The program's path. Without it the test is skipped, or fails where REQUIRE_PROGRAMS=1 says that nothing may be."""
    if path := shutil.which(name):
        return path
    reason = f"{name} is not installed; on Debian: apt-get install, see .ci/run"
    if os.environ.get("REQUIRE_PROGRAMS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
