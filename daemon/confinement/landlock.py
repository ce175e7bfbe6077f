"""Landlock: take the right to reach files, other processes and their sockets from this process.

A process with any ruleset can no longer trace a process outside of it, or read or write the memory of one. From ABI 6 on, a
ruleset also refuses signals to other processes, and their abstract sockets.

Sources: linux/landlock.h, https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system call numbers, equal on all architectures
QUERY_VERSION, PATH_BENEATH = 1, 1
READ_FILE, REFER = 1 << 2, 1 << 13
REFER_ABI = 2  # older kernels refuse to move files to another folder, whatever the rules

# By the lowest ABI that has them: the bits of all rights to files, rights to the network, and scopes.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
NETWORK_RIGHTS = {1: 0, 4: 2}
SCOPES = {1: 0, 6: 2}
ATTRIBUTE_BYTES = {1: 8, 4: 16, 6: 24}


def landlock_abi() -> int:
    """Return the kernel's version of Landlock. Raises OSError if it has none, or a container's profile refuses it."""
    return _call(CREATE_RULESET, None, 0, QUERY_VERSION)


def refuse_files() -> None:
    """Take all rights of the kernel's version from this process, irrevocably: it may use only files that it has open.

    Refuses TCP as well (from ABI 4 on). The process must have no_new_privs set. Raises OSError.
    """
    abi = landlock_abi()
    _restrict(_create(abi, (1 << _since(abi, FILE_RIGHTS)) - 1, (1 << _since(abi, NETWORK_RIGHTS)) - 1))


def hide(paths: Collection[Path]) -> None:
    """Refuse this process to read these files and folders, and to reach into other processes, irrevocably.

    All else that exists now stays readable, and what is created later, except next to a hidden path. The process must have one
    thread, and no_new_privs set. Raises OSError.
    """
    abi = landlock_abi()
    handled = READ_FILE | (REFER if abi >= REFER_ABI else 0)
    ruleset = _create(abi, handled, 0)
    # os.path: without an error for a path that is closed to this process anyway.
    hidden = [Path(os.path.realpath(path)) for path in paths if os.path.exists(path)]  # noqa: PTH110
    for path in _around(Path("/"), hidden):
        with suppress(FileNotFoundError, PermissionError):  # gone, or closed to this process anyway
            _allow(ruleset, path, handled if path.is_dir() else READ_FILE)
    _restrict(ruleset)


def _around(folder: Path, hidden: Collection[Path]) -> Iterator[Path]:
    """Return the fewest paths that contain everything below the folder except the hidden paths."""
    if not hidden:
        yield folder
        return
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if path not in hidden and not entry.is_symlink():
            yield from _around(path, [each for each in hidden if each.is_relative_to(path)])


def _create(abi: int, files: int, network: int) -> int:
    attribute = struct.pack("=QQQ", files, network, (1 << _since(abi, SCOPES)) - 1)
    return _call(CREATE_RULESET, attribute, _since(abi, ATTRIBUTE_BYTES), 0)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _call(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, parent), 0)
    finally:
        os.close(parent)


def _restrict(ruleset: int) -> None:
    try:
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _since(abi: int, table: dict[int, int]) -> int:
    return table[max(first for first in table if first <= abi)]


def _call(number: int, *arguments: int | bytes | None) -> int:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "Landlock is part of Linux")
    passed = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result = int(LIBC.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
