"""Run a program as on a kernel, or in a container, that lacks something: `python kernels.py NAME COMMAND …`.

A seccomp filter refuses the calls, as Docker's default profile does. All children inherit it.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.confinement.landlock import landlock_abi

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
LANDLOCK_CALLS = (444, 445, 446)
PRCTL, SECCOMP, UNSHARE, CLONE3 = {
    "x86_64": (157, 317, 272, 435),
    "aarch64": (167, 277, 97, 435),
}[platform.machine()]


def has_landlock() -> bool:
    """Return whether this kernel has Landlock; tests of the whole sandbox need it."""
    try:
        return landlock_abi() > 0
    except OSError:
        return False


def command_on(kernel: str, *command: str) -> Sequence[str]:
    """Return the command that runs another one on such a kernel."""
    return (sys.executable, __file__, kernel, *command)


def _refuse(number: int, error: int) -> list[tuple[int, int, int, int]]:
    return [(0x15, 0, 1, number), (0x06, 0, 0, REFUSE | error)]


NO_SECCOMP = [
    *_refuse(SECCOMP, errno.ENOSYS),
    (0x15, 0, 4, PRCTL),
    (0x20, 0, 0, 16),  # the first argument
    (0x15, 0, 1, PR_SET_SECCOMP),
    (0x06, 0, 0, REFUSE | errno.EINVAL),
    (0x06, 0, 0, ALLOW),
]
NO_LANDLOCK = [each for number in LANDLOCK_CALLS for each in _refuse(number, errno.ENOSYS)]
KERNELS = {
    "without Landlock": NO_LANDLOCK,
    "without seccomp": NO_SECCOMP,
    "without both": [*NO_LANDLOCK, *NO_SECCOMP],
    "without user namespaces": [*_refuse(UNSHARE, errno.EPERM), *_refuse(CLONE3, errno.ENOSYS)],
}


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> None:
    kernel, *command = sys.argv[1:]
    steps = [(0x20, 0, 0, 0), *KERNELS[kernel], (0x06, 0, 0, ALLOW)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, 2, ctypes.byref(Program(len(steps), code)), 0, 0
    ):
        sys.exit(f"cannot install the filter in {Path(__file__).name}")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
