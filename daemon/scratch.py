"""Scratch space on disk: a directory for this daemon, one in it for each job, and nothing left behind by the dead."""

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("transcriptd.scratch")

LOCK_NAME = "lock"


@contextmanager
def open_scratch(root: Path) -> Iterator[Path]:
    """This daemon's own directory, removed at the end; directories of daemons that died are swept first.

    A living daemon holds a lock in its directory, so that several can share one root.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / LOCK_NAME).open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # sweeping and creating are one step, or a new directory could be swept
        _sweep(root)
        own = Path(tempfile.mkdtemp(prefix="daemon-", dir=root))
        lock = (own / LOCK_NAME).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


@contextmanager
def job_directory(scratch: Path) -> Iterator[Path]:
    """A directory for one delivery, removed on every path. Its name is ours: nothing of the message is in it."""
    directory = Path(tempfile.mkdtemp(prefix="job-", dir=scratch))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(root: Path) -> None:
    for directory in root.glob("daemon-*"):
        with (directory / LOCK_NAME).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its daemon lives
            log.warning("removing scratch of a daemon that died", extra={"directory": str(directory)})
            shutil.rmtree(directory, ignore_errors=True)
