"""The credentials of the daemons: one file for each, rewritten as a program that rotates keys does it."""

import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path

AUTHORIZATION = re.compile(r"Credential=([^/,]+)/")


@dataclass(frozen=True, slots=True)
class KeyUse:
    key: str
    at: float  # monotonic


class KeyFiles:
    """Writes the files. The proxy refuses old keys."""

    def __init__(self, folder: Path, callers: list[str]) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self.written: dict[str, KeyUse] = {}  # the last key in each caller's file
        for caller in callers:
            self.write(caller, self.next_key())

    def path(self, caller: str) -> Path:
        return self._folder / f"{caller}.credentials"

    def next_key(self) -> str:
        return f"AKIA{next(self._numbers):016d}"

    def write(self, caller: str, key: str) -> None:
        new = self._folder / f"{caller}.new"
        new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = embedded\n")
        new.replace(self.path(caller))
        self.written[caller] = KeyUse(key, time.monotonic())


def key_of(authorization: str | None) -> str | None:
    """Return the access key ID that signed a call."""
    found = AUTHORIZATION.search(authorization or "")
    return found[1] if found else None
