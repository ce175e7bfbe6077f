"""Keeps the libraries' chatter out of the logs and off stdout. Used before they are imported, so it imports none."""

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

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


@contextmanager
def quietly() -> Iterator[None]:
    """Inside the block, libraries' warnings and what they print are dropped: both may quote what was said."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
