"""The lock files satisfy pyproject.toml on each supported Python version and contain no pre-releases."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
PROMISED = ("3.11", "3.12", "3.13")

LOCKS = {
    "requirements.lock": ("embedded", "install", "dev"),
    "deploy/requirements.lock": ("install",),
}


def pins(lock: str, python: str) -> dict[str, Version]:
    """Return the pinned version of each package for this Python version, on Linux on x86-64."""
    environment = {
        "python_full_version": f"{python}.2",
        "python_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }
    found: dict[str, Version] = {}
    for line in (REPOSITORY / lock).read_text().splitlines():
        if pin := re.match(r"([A-Za-z0-9._-]+)==(\S+)(?: ; (.+?))?(?: \\)?$", line):
            name, version, marker = pin.groups()
            if marker is None or Marker(marker).evaluate(environment):
                assert canonicalize_name(name) not in found, f"{name} is pinned twice for Python {python}"
                found[canonicalize_name(name)] = Version(version)
    return found


@pytest.mark.parametrize("python", PROMISED)
@pytest.mark.parametrize("lock", LOCKS)
def test_each_requirement_has_a_pin_that_satisfies_it(lock: str, python: str) -> None:
    locked = pins(lock, python)
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(entry for extra in LOCKS[lock] for entry in extras[extra])]
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {lock}: make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} against {version}: make lock"


@pytest.mark.parametrize("python", PROMISED)
@pytest.mark.parametrize("lock", LOCKS)
def test_locks_follow_the_overrides_and_exclusions(lock: str, python: str) -> None:
    """An older uv ignores settings that it does not know."""
    locked = pins(lock, python)
    for requirement in map(Requirement, PYPROJECT["tool"]["uv"]["override-dependencies"]):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, f"{requirement}: make lock"
    assert locked.keys() & set(PYPROJECT["tool"]["uv"]["exclude-dependencies"]) == set(), "make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_no_pin_is_a_pre_release(lock: str) -> None:
    """A resolver chooses one if the bounds leave no release. Some OpenTelemetry packages have only pre-releases."""
    unfinished = {
        name
        for python in PROMISED
        for name, version in pins(lock, python).items()
        if version.is_prerelease and not name.startswith("opentelemetry-")
    }
    assert unfinished == set()


def test_supported_versions_are_the_tested_ones() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 30) if f"3.{minor}.2" in supported] == list(PROMISED)
    ci = (REPOSITORY / ".ci" / "run").read_text()
    assert f"promised=({' '.join(PROMISED)})" in ci
    for script in ("Makefile", "deploy/install.sh"):
        assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (REPOSITORY / script).read_text(), script
    assert "3.11, 3.12 or 3.13" in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_index(lock: str) -> None:
    assert re.findall(r"(?m)^(?!#).*(?:index-url|find-links|://)", (REPOSITORY / lock).read_text()) == []
