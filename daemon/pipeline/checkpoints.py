"""Finished parts of a job, kept as files so that a later delivery, on any instance, continues from there.

The poller puts what earlier deliveries finished into the folder before the job runs, and stores each new file when it
hears of it. Whether a checkpoint fits (same input, same options, same models) is the poller's business: a file that is
here may be used. Its shape is checked all the same (saved.py).
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("transcriptd.pipeline.checkpoints")

# Part of what decides whether a stored checkpoint fits. To be raised when the files' format changes, and when the
# pipeline would now produce something else from the same input: how speech is cut, decoded, aligned or diarized.
CHECKPOINT_VERSION = 4


class Checkpoints:
    """The checkpoint folder of one job."""

    def __init__(self, folder: Path, on_saved: Callable[[str], None], prefix: str = "") -> None:
        """`on_saved` is called with the name of each file once it is complete. Names of files begin with `prefix`."""
        self._folder = folder
        self._on_saved = on_saved
        self._prefix = prefix

    def part(self, name: str) -> "Checkpoints":
        """The checkpoints of a part of the job, which may have the names that another part's have."""
        return Checkpoints(self._folder, self._on_saved, f"{self._prefix}{name}-")

    def load(self, name: str) -> Any | None:
        """What was saved under this name, or None. A damaged file counts as none: the part is done again."""
        try:
            return json.loads((self._folder / f"{self._prefix}{name}").read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            log.warning("checkpoint damaged, its part is done again", extra={"checkpoint": name})
            return None

    def save(self, name: str, data: Any) -> None:
        """Keep `data` (JSON) under this name: letters, digits, dots and dashes."""
        name = f"{self._prefix}{name}"
        unfinished = self._folder / f".{name}"
        try:
            unfinished.write_text(json.dumps(data, separators=(",", ":")))
            unfinished.replace(self._folder / name)
        except OSError:  # the job can do without: only a later delivery would have to do this part again
            log.warning("checkpoint not written", extra={"checkpoint": name}, exc_info=True)
            return
        self._on_saved(name)
