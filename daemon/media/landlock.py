"""Landlock without a rule: a process may use the files that it has open, and reach no other.

It also refuses TCP (from ABI 4 on), abstract sockets of other processes and signals to them (from ABI 6 on).

Sources: linux/landlock.h, https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
CREATE_RULESET, RESTRICT_SELF = 444, 446  # system call numbers, equal on all architectures
QUERY_VERSION = 1

# By the lowest ABI that has them: the bits of all rights to files, rights to the network, and scopes.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
NETWORK_RIGHTS = {1: 0, 4: 2}
SCOPES = {1: 0, 6: 2}
ATTRIBUTE_BYTES = {1: 8, 4: 16, 6: 24}


def landlock_abi() -> int:
    """Return the kernel's version of Landlock. Raises OSError if it has none, or a container's profile refuses it."""
    return _call(CREATE_RULESET, None, 0, QUERY_VERSION)


def refuse_files() -> None:
    """Take all rights of the kernel's version from this process, irrevocably. It must have no_new_privs set.

    Raises OSError.
    """
    abi = landlock_abi()
    attribute = struct.pack("=QQQ", *((1 << _since(abi, bits)) - 1 for bits in (FILE_RIGHTS, NETWORK_RIGHTS, SCOPES)))
    ruleset = _call(CREATE_RULESET, attribute, _since(abi, ATTRIBUTE_BYTES), 0)
    try:
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _since(abi: int, table: dict[int, int]) -> int:
    return table[max(first for first in table if first <= abi)]


def _call(number: int, *arguments: int | bytes | None) -> int:
    passed = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result = int(LIBC.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
