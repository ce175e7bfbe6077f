"""Restrictions that the decoder process applies to itself before FFmpeg reads an untrusted file. Linux only.

`limit` bounds what the process may use. `lock_down` takes everything else from it once its files are open: capabilities, then
the files of the system (Landlock), then all system calls but a few (seccomp). No layer needs a privilege.
"""

import ctypes
import errno
import math
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.confinement.landlock import refuse_files
from daemon.media.seccomp import refuse_system_calls

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CAPABILITY_VERSION_3, CAPABILITY_SETS = 0x20080522, 6  # three sets of 64 bits, in words of 32
LIBC = ctypes.CDLL(None, use_errno=True)

SPARE_FILE_BYTES = 2**20
FIRST_TO_KILL = 1000  # highest oom_score_adj


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the jail, which the kernel may lack."""

    name: str
    apply: Callable[[], None]  # raises OSError
    needs: str


LAYERS: tuple[Layer, ...] = (
    Layer("Landlock", refuse_files, "Linux 5.13 or later with landlock in its list of LSMs"),
    Layer("seccomp", refuse_system_calls, "Linux with CONFIG_SECCOMP_FILTER, on x86-64 or AArch64"),
)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent dies; exit now if it has died. Ignores the signals that stop it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has exited")  # before PDEATHSIG was set


def limit(*, memory_bytes: int, cpu_seconds: float, file_bytes: int) -> None:
    """Set resource limits that bound whatever a file makes FFmpeg do. When memory runs out, this process is killed first."""
    Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_KILL))
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
    _require(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def lock_down(*, allow_weak: bool) -> None:
    """Leave this process its open files, its memory and its end. It must have one thread, and `limit` applied.

    Raises OSError if the kernel lacks a layer, unless `allow_weak`.
    """
    _drop_capabilities()
    for layer, error in apply_layers():
        if error and not allow_weak:
            raise OSError(error.errno, f"{layer.name} cannot confine the decoder: {error.strerror}")


def apply_layers() -> Iterator[tuple[Layer, OSError | None]]:
    """Apply the layers one after the other. Yield each one with its error, or None if it holds."""
    for layer in LAYERS:
        error: OSError | None = None
        try:
            layer.apply()
        except OSError as missing:
            error = missing
        yield layer, error


def _drop_capabilities() -> None:
    """Drop what a daemon that runs as root has. Takes nothing from any other user."""
    _require(LIBC.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(4 * CAPABILITY_SETS)))


def _require(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno() or errno.EINVAL
        raise OSError(code, os.strerror(code))
