"""Store finished parts of a job as files, so that a later delivery, on any instance, can resume the job.

The poller restores the files of earlier deliveries before the job runs, and uploads each new file when it is notified.
It restores only files with the same fingerprint (fingerprint.py), input and options, so a file in the folder is usable.
Its contents are validated nevertheless (parts.py).
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("transcriptd.pipeline.checkpoints")


class Checkpoints:
    """The checkpoint folder of one job."""

    def __init__(self, folder: Path, on_saved: Callable[[str], None], prefix: str = "") -> None:
        """Open the folder. Calls `on_saved` with the name of each completed file. File names start with `prefix`."""
        self._folder = folder
        self._on_saved = on_saved
        self._prefix = prefix

    def part(self, name: str) -> "Checkpoints":
        """Return the checkpoints of a part of the job, with its own namespace."""
        return Checkpoints(self._folder, self._on_saved, f"{self._prefix}{name}-")

    def load(self, name: str) -> Any | None:
        """Load the data saved under this name, or None. A damaged file counts as absent: the part is repeated."""
        try:
            return json.loads((self._folder / f"{self._prefix}{name}").read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            log.warning("checkpoint damaged, part will be repeated", extra={"checkpoint": name})
            return None

    def save(self, name: str, data: Any) -> None:
        """Save `data` as JSON. The name may contain letters, digits, dots and dashes."""
        name = f"{self._prefix}{name}"
        unfinished = self._folder / f".{name}"
        try:
            unfinished.write_text(json.dumps(data, separators=(",", ":")))
            unfinished.replace(self._folder / name)
        except OSError:  # not fatal: only a later delivery would have to repeat this part
            log.warning("checkpoint not written", extra={"checkpoint": name}, exc_info=True)
            return
        self._on_saved(name)
