"""Keep the daemon's memory and environment, which hold its secrets, from other processes of the same user.

The runner and the decoders handle untrusted media under the same user ID. Without this, code that runs in one of them
reads `/proc/<poller>/environ` and `mem`, or attaches to the poller with ptrace.
"""

import ctypes

PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Make this process undumpable: only root may read its memory, and it writes no core file. See prctl(2).

    A new program that it executes is dumpable again. Linux only; elsewhere it does nothing.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
