"""Restrictions that a runner process applies to itself, because it holds models and audio that others provide. Linux only.

`confine` comes first, before a library is loaded: no access to other processes and to the daemon's credentials, and no
internet socket where models need not be downloaded. `end_connections` follows once the models are loaded. CUDA keeps what it
needs: devices, its local sockets and netlink.
"""

import ctypes
import errno
import operator
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from daemon.confinement.bpf import (
    ALLOW,
    REFUSE,
    action,
    architecture,
    install_in_all_threads,
    only_if,
    program,
    with_value,
)
from daemon.confinement.landlock import hide

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
# Of a daemon that runs as root, by number: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, IPC_LOCK and SYS_NICE. They concern files,
# which belong to others in some containers, and the runner's own memory and threads. See capabilities(7).
KEPT_CAPABILITIES = sum(1 << number for number in (0, 1, 2, 3, 14, 23))

# Refused with any argument: they reach into other processes, around the filter, or into parts of the kernel that no model needs.
FOREIGN = (
    "ptrace process_vm_readv process_vm_writev pidfd_getfd pidfd_send_signal io_uring_setup io_uring_enter io_uring_register "
    "bpf perf_event_open userfaultfd unshare setns add_key request_key keyctl"
).split()
# Address families of sockets that stay possible. CUDA's driver uses both.
LOCAL_FAMILIES = (socket.AF_UNIX, getattr(socket, "AF_NETLINK", 16))
# Refused once the models are loaded and no network is needed: also the local services of the machine, such as its resolver.
CONNECTIONS = ("connect", "bind", "listen")


def confine(*, hidden: Collection[Path], offline: bool, allow_weak: bool) -> None:
    """Restrict this process. It must have one thread. `hidden` are files and folders with credentials.

    Raises OSError if the kernel lacks a layer, unless `allow_weak`.
    """
    for name, apply in runner_layers(hidden, offline=offline).items():
        try:
            apply()
        except OSError as error:
            if not allow_weak:
                raise OSError(error.errno, f"{name} cannot confine the runner: {error.strerror}") from error


def end_connections(*, allow_weak: bool) -> None:
    """Refuse new connections in all threads, to whatever address. Raises OSError as `confine` does."""
    try:
        _refuse(CONNECTIONS)
    except OSError as error:
        if not allow_weak:
            raise OSError(error.errno, f"seccomp cannot confine the runner: {error.strerror}") from error


def runner_layers(hidden: Collection[Path], *, offline: bool) -> dict[str, Callable[[], None]]:
    """Return the layers by name, in the order in which they apply. Each raises OSError if the kernel lacks it."""
    return {"Landlock": lambda: _hide(hidden), "seccomp": lambda: _refuse(FOREIGN, sockets=offline)}


def _drop_capabilities() -> None:
    """Drop what a daemon that runs as root has beyond KEPT_CAPABILITIES, such as to read other processes' memory."""
    header, sets = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    _require(LIBC.capget(header, sets))
    low, high = KEPT_CAPABILITIES & 0xFFFFFFFF, KEPT_CAPABILITIES >> 32
    kept = (
        low,
        low,
        0,
        high,
        high,
        0,
    )  # effective, permitted, inheritable: of the lower capabilities, then the upper ones
    _require(LIBC.capset(header, struct.pack("=6I", *map(operator.and_, struct.unpack("=6I", sets.raw), kept))))


def _hide(hidden: Collection[Path]) -> None:
    _set_no_new_privileges()
    _drop_capabilities()
    hide(hidden)


def _refuse(calls: Collection[str], *, sockets: bool = False) -> None:
    """Refuse these system calls, and with `sockets` also sockets of families outside LOCAL_FAMILIES."""
    target = architecture()
    _set_no_new_privileges()
    families = [only_if(target.numbers["socket"], with_value(0, *LOCAL_FAMILIES))] if sockets else []
    refused = (only_if(target.numbers[name], (action(REFUSE),)) for name in calls)
    install_in_all_threads(program(target, *refused, *families, otherwise=ALLOW))


def _set_no_new_privileges() -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no_new_privs is part of Linux")
    _require(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _require(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
