"""Keep library output out of the logs and off stdout. Runs before the libraries are imported, so it imports none."""

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
    """Set the environment variables that the libraries read once, at import."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # telemetry is on by default
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # plain_weights.py
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # PyTorch refuses to load with both
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if hf_token:
        os.environ["HF_TOKEN"] = hf_token
    # PyTorch warns without triton, which the lock leaves out.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    # whisperx adds a handler that writes to stdout unless its logger already has one.
    logging.getLogger("whisperx").addHandler(logging.NullHandler())


def quiet_loggers() -> None:
    """Raise the level of noisy loggers. Call after the import, because some libraries set their own level in it."""
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


class RefCountedContext:
    """Reference-counted process-wide context: set by the first thread to enter, restored by the last to leave.

    If each thread restored the state that it found, two overlapping threads could leave the context set for good.
    """

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._inside = 0
        self._entered = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._entered.enter_context(self._context())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._entered.close()


@contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# Drop the libraries' warnings and printed output inside the block: both may quote the recording.
suppress_library_output = RefCountedContext(_silence)
