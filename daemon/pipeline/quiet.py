"""Keeps the libraries' chatter out of the logs and off stdout. Used before they are imported, so it imports none."""

import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout

CHATTY_LOGGERS = (
    "faster_whisper",
    "lightning",
    "lightning.fabric",
    "lightning.pytorch",
    "pytorch_lightning",
    "transformers",
    "whisperx",
)


def prepare_environment(hf_token: str | None) -> None:
    """What the libraries read once, when they are imported."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # telemetry is on unless this says otherwise
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if hf_token:
        os.environ["HF_TOKEN"] = hf_token
    # whisperx adds a handler that writes to stdout, unless it finds one.
    logging.getLogger("whisperx").addHandler(logging.NullHandler())


def quiet_loggers() -> None:
    """To be called after the import, at which some libraries set their own level."""
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


class Shared:
    """A switch of the whole process, thrown as long as any thread is inside: the first to enter throws it, the last undoes it.

    Two threads that each put back what they found would leave it thrown for good.
    """

    def __init__(self, throw: Callable[[], AbstractContextManager[None]]) -> None:
        self._throw = throw
        self._lock = threading.Lock()
        self._inside = 0
        self._thrown = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._thrown.enter_context(self._throw())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._thrown.close()


@contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# Inside the block, libraries' warnings and what they print are dropped: both may quote what was said.
quietly = Shared(_silence)
