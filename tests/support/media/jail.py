"""Start the fork server with a decoder that does something else than decoding, once it is locked down.

`python jail.py USER LAYERS MODULE:FUNCTION PARENT` imports FUNCTION first, because nothing can be imported in the jail, then
becomes USER (a number; 0 stays root), and forks decoders as the daemon's fork server does. LAYERS names the layers of the jail.
FUNCTION takes the source and the targets.
"""

import ctypes
import importlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

PR_SET_DUMPABLE = 4
RESULT = {"container": "none", "codec": "none", "has_video": False, "tracks": 1, "warnings": []}
SAMPLE_BYTES = 4

Attack = Callable[[BinaryIO, Sequence[BinaryIO]], object]


def interpreter(folder: Path, attack: Attack, user: int = 0, layers: str = "Landlock,seccomp") -> Path:
    """Return a program to use as `sys.executable`, whose decoders run `attack`. It must be importable from its module."""
    program = folder / "python"
    command = [sys.executable, __file__, str(user), layers, f"{attack.__module__}:{attack.__qualname__}"]
    # The arguments of the daemon are `-I -m MODULE PARENT`.
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$4"\n')
    program.chmod(0o755)
    return program


def read_report(path: Path) -> Any:
    """Return what the attack returned."""
    return json.loads(path.read_bytes())


def _run(attack: Attack, source: BinaryIO, targets: Sequence[BinaryIO], *_: object, **__: object) -> dict[str, Any]:
    report = json.dumps(attack(source, targets)).encode()
    targets[0].write(report + b" " * (-len(report) % SAMPLE_BYTES))
    targets[0].flush()
    return RESULT


def _become(user: int) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    # As after the start of a program: a change of the user makes /proc/self belong to root.
    if ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0):
        raise OSError("PR_SET_DUMPABLE failed")


def main() -> None:
    user, layers, name, parent = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parents[3]))
    module, _, function = name.partition(":")
    attack = getattr(importlib.import_module(module), function)
    from daemon.media import decode, fork_server, sandbox

    sandbox.LAYERS = tuple(layer for layer in sandbox.LAYERS if layer.name in layers.split(","))
    decode.decode = partial(_run, attack)
    if int(user):
        _become(int(user))
    sys.argv = ["fork_server", parent]
    fork_server.main()


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules have the names of others
    main()
