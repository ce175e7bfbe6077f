"""Restrictions that the decoder process applies to itself before FFmpeg reads an untrusted file. Linux only."""

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


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent dies; exit now if it has died. Ignores the signals that stop it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has exited")  # before PDEATHSIG was set


def limit(*, memory_bytes: int, cpu_seconds: float, file_bytes: int) -> None:
    """Set resource limits that bound whatever a file makes FFmpeg do."""
    for kind, value in {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: math.ceil(cpu_seconds),
        resource.RLIMIT_FSIZE: file_bytes + SPARE_FILE_BYTES,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # no new processes or threads; does not apply to root
    }.items():
        _, hard = resource.getrlimit(kind)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        upper = lower if lower == hard else lower + 1  # +1 so that SIGXCPU precedes SIGKILL at the CPU limit
        resource.setrlimit(kind, (lower, upper))
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def leave_network() -> bool:
    """Enter new user and network namespaces: no network, no access to other users' files.

    Return False where the system forbids it; decoding then continues without this restriction.
    """
    return bool(LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)
