"""The users under which attacks run: root, and one without any rights."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
USERS = [0, NOBODY] if os.getuid() == 0 else [os.getuid()]


@contextmanager
def folder_of(user: int) -> Iterator[Path]:
    """Make a folder that belongs to the user, below no folder that is closed to it."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, user, -1)
        yield Path(name)
