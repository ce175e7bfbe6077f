"""The duties of process 1 of a container: forward signals, reap orphans. And an early response to signals.

Import nothing slow here: the launcher's own handlers exist only after a second of imports.
"""

import os
import signal
from contextlib import suppress
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FORWARDED_SIGNALS = (*STOP_SIGNALS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

DRAIN_VARIABLE = "TRANSCRIPTD_DRAIN_TIMEOUT_SECONDS"
# Docker kills a container 10 s after SIGTERM; 2 s are for the release of the messages.
CONTAINER_DRAIN_SECONDS = "8"
SIGNALLED = 128  # a shell's exit status for a process that a signal killed, minus the signal


def exit_on_signals() -> None:
    """Exit at once on a signal to stop, as long as nothing has been received. The launcher's handlers take over.

    Without a handler, the kernel drops the signals of process 1.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(0))


def fork_if_first_process() -> int | None:
    """As process 1, run the daemon in a child and return its exit status; otherwise, and in the child, return None.

    The kernel gives process 1 every orphan of the container. A parent that does nothing else can reap them all without
    taking the exit status of a process that the daemon waits for.
    """
    if os.getpid() != 1:
        return None
    child = os.fork()
    if child == 0:
        os.setsid()  # a terminal sends Ctrl-C to process 1 only, which forwards it: a second signal would cut the drain short
        if not os.environ.get(DRAIN_VARIABLE):
            os.environ[DRAIN_VARIABLE] = CONTAINER_DRAIN_SECONDS
        return None

    def forward(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in FORWARDED_SIGNALS:
        signal.signal(number, forward)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else SIGNALLED - code
