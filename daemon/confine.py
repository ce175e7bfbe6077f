"""What the decoder process gives up before FFmpeg sees a byte of a file that nobody vouches for. Linux only."""

import ctypes
import math
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
LIBC = ctypes.CDLL(None)

SPARE_FILE_BYTES = 2**20


def end_with(parent: int) -> None:
    """The parent alone decides when this process ends, and it ends with it; at once when `parent` is gone already."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")  # it died before PDEATHSIG could notice


def limit(*, memory_bytes: int, cpu_seconds: float, file_bytes: int) -> None:
    """Limits that hold whatever a file makes FFmpeg do."""
    for kind, value in {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: math.ceil(cpu_seconds),
        resource.RLIMIT_FSIZE: file_bytes + SPARE_FILE_BYTES,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # no process, no thread; root is exempt
    }.items():
        _, hard = resource.getrlimit(kind)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        upper = lower if lower == hard else lower + 1  # one second more, so that the end of CPU time is a SIGXCPU
        resource.setrlimit(kind, (lower, upper))
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def leave_network() -> bool:
    """From here on no file of another user and no network. Where the system forbids it, False: it is done without."""
    return bool(LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)
