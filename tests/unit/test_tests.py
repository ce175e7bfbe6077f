"""The layout of the tests: code that two of them share is in tests/support, or in bench if the benchmarks need it,
too."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_test_module_is_imported_by_another() -> None:
    found = {
        path.name: imported
        for path in TESTS.rglob("*.py")
        if (imported := re.findall(r"(?m)^ *(?:from|import) (tests(?:\.\w+)*\.test_\w+)", path.read_text()))
    }
    assert found == {}


def test_support_code_is_in_packages() -> None:
    assert {path.name for path in TESTS.glob("*.py")} == {"__init__.py", "conftest.py"}
