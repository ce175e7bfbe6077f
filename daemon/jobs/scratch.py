"""Scratch space on disk: one directory for each daemon, with a subdirectory for each job."""

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from daemon.errors import ConfigError

log = logging.getLogger("transcriptd.scratch")

LOCK_NAME = "lock"


@contextmanager
def open_scratch(root: Path) -> Iterator[Path]:
    """Create this daemon's directory and remove it at the end. First remove the directories of crashed daemons.

    A running daemon holds a lock in its directory, so that several daemons can share one root. Raises ConfigError.
    """
    try:
        own, lock = _create(root)
    except OSError as error:
        raise ConfigError(
            f"TRANSCRIPTD_SCRATCH_DIR: {error.filename or root} cannot be used: {error.strerror}"
        ) from error
    with lock:
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _create(root: Path) -> tuple[Path, IO[str]]:
    """Return this daemon's directory and the lock it holds there. Raises OSError."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / LOCK_NAME).open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # removing and creating must be atomic, or a new directory could be removed
        _remove_stale(root)
        own = Path(tempfile.mkdtemp(prefix="daemon-", dir=root))
        lock = (own / LOCK_NAME).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return own, lock


@contextmanager
def job_directory(scratch: Path) -> Iterator[Path]:
    """Create a directory for one delivery and always remove it. Its name contains nothing from the message."""
    directory = Path(tempfile.mkdtemp(prefix="job-", dir=scratch))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    for directory in root.glob("daemon-*"):
        with (directory / LOCK_NAME).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its daemon is running
            log.warning("removing scratch directory of a crashed daemon", extra={"directory": str(directory)})
            shutil.rmtree(directory, ignore_errors=True)
