"""Scratch space on disk: one directory for each daemon, with a subdirectory for each job."""

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from daemon.errors import ConfigError

log = logging.getLogger("transcriptd.scratch")

LOCK_NAME = "lock"
ROOT = 0
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def open_scratch(root: Path) -> Iterator[Path]:
    """Create this daemon's directory and remove it at the end. First remove the directories of crashed daemons.

    A running daemon holds a lock in its directory, so that several daemons can share one root. Raises ConfigError, also if
    the root belongs to another user: the default root is in /tmp, where anyone may have made it first.
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
    _require_trusted(root)
    with _open_lock(root / LOCK_NAME) as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # removing and creating must be atomic, or a new directory could be removed
        _remove_stale(root)
        own = Path(tempfile.mkdtemp(prefix="daemon-", dir=root))
        lock = _open_lock(own / LOCK_NAME)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return own, lock


def _require_trusted(root: Path) -> None:
    """Raise ConfigError if anyone could have made the directory, or a link to it, and another user than this or root did.

    Of a directory of this user, take the permission to write away from everyone else.
    """
    user = os.geteuid()
    anyone_could = root.parent.stat().st_mode & OTHERS_MAY_WRITE
    for found in (root.lstat(), root.stat()):
        if anyone_could and found.st_uid not in (user, ROOT):
            raise ConfigError(
                f"TRANSCRIPTD_SCRATCH_DIR: {root} belongs to user {found.st_uid} and this is user {user}: the owner could read "
                "and replace recordings there; remove it, or choose another directory"
            )
    if found.st_uid == user and found.st_mode & OTHERS_MAY_WRITE:
        root.chmod(0o700)


def _open_lock(path: Path) -> IO[str]:
    """Open a lock file, and create it if it is missing. Never follow a link, and never change another file."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+")


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
        if directory.is_symlink():
            continue
        with _open_lock(directory / LOCK_NAME) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its daemon is running
            log.warning("removing scratch directory of a crashed daemon", extra={"directory": str(directory)})
            shutil.rmtree(directory, ignore_errors=True)
