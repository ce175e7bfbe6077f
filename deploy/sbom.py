"""`python -m deploy.sbom ARCHIVE LOCK`: print a CycloneDX SBOM of a release archive and of the packages in its lock.

Its bytes depend on the archive and the lock alone, so anyone can rebuild and compare it. SOURCE_DATE_EPOCH is its time.
"""

import hashlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))?(?: \\)?$")
PARENT = re.compile(r"    # (?:via |  )(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(slots=True)
class Pin:
    """A package in a lock. A universal lock has several pins of a package if its version depends on the marker."""

    name: str
    version: str
    marker: str | None
    parents: list[str] = field(default_factory=list)  # the packages that require it


def read_lock(lines: Iterable[str]) -> list[Pin]:
    """Read the pins, and from the comments of `uv pip compile` what requires each of them."""
    pins: list[Pin] = []
    for line in lines:
        if found := PIN.match(line):
            pins.append(Pin(found["name"], found["version"], found["marker"]))
        elif pins and (found := PARENT.match(line)):
            pins[-1].parents.append(found["name"])
    return pins


def describe(archive: Path, pins: Iterable[Pin], made: datetime) -> Bom:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    name, _, version = archive.name.removesuffix(".tar.gz").partition("-")
    release = Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=f"{name}@{version}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    components: dict[str, list[Component]] = defaultdict(list)
    children: dict[str, list[Component]] = defaultdict(list)
    for pin in pins:
        purl = PackageURL("pypi", name=pin.name, version=pin.version)
        component = Component(
            name=pin.name,
            version=pin.version,
            purl=purl,
            bom_ref=str(purl),
            scope=ComponentScope.OPTIONAL if pin.marker else ComponentScope.REQUIRED,
            properties=[Property(name="python:marker", value=pin.marker)] if pin.marker else (),
        )
        components[pin.name].append(component)
        for parent in pin.parents:
            children[parent].append(component)
    bom = Bom(components=[each for same in components.values() for each in same])
    bom.serial_number = uuid5(NAMESPACE_URL, f"sha256:{digest}")
    bom.metadata.timestamp = made
    bom.metadata.component = release
    for parent, wanted in children.items():
        for each in [release] if parent == name else components[parent]:
            bom.register_dependency(each, wanted)
    return bom


def main() -> None:
    archive, lock = map(Path, sys.argv[1:])
    made = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    with lock.open() as lines:
        print(JsonV1Dot6(describe(archive, read_lock(lines), made)).output_as_string(indent=2))


if __name__ == "__main__":
    main()
