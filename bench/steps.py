"""Time Whisper's encoder per chunk and its decoder per step, by batch size. The weights may be random."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from bench.gpu_watch import GpuUse
from bench.report import markdown
from bench.setup import BEAM_SIZE, Setup

FRAMES = 3000  # per chunk of 30 s
# Random weights never end a text, and real ones end it at any length, so both decode this number of tokens.
# The work before the first step is part of both and cancels out in the difference.
FEW_TOKENS, MANY_TOKENS = 16, 80
HEADINGS = ["Batch", "Encoder, ms a chunk", "Decoder, ms a step", "ms a step and chunk"]
GPU_HEADINGS = ["GPU busy", "VRAM MiB"]
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Steps:
    batch: int
    encode_seconds: float  # of the whole batch
    step_seconds: float  # of the whole batch
    tokens: int  # number of timed steps
    began: float  # on the monotonic clock
    ended: float


@dataclass(frozen=True, slots=True)
class StepsRow:
    batch: int
    steps: Steps | None  # None if memory was insufficient
    gpu: GpuUse | None


def measure_steps(setup: Setup, batch: int, repeat: int) -> Steps | None:
    """Return the medians, or None if it runs out of memory. Call in a separate process, which keeps the model."""
    from daemon.pipeline.runtime.device import Failure, classify

    try:
        return _measure(setup, batch, repeat)
    except RuntimeError as error:
        if classify(error) is Failure.OUT_OF_MEMORY:
            return None
        raise


def steps_table(rows: Sequence[StepsRow]) -> str:
    has_gpu = any(row.gpu for row in rows)
    headings = [*HEADINGS, *GPU_HEADINGS] if has_gpu else HEADINGS
    return markdown([headings, *(_cells(row, has_gpu) for row in rows)], words=())


def _cells(row: StepsRow, has_gpu: bool) -> list[str]:
    steps = row.steps
    if steps is None:
        return [str(row.batch), "out of memory", *[""] * (4 if has_gpu else 2)]
    cells = [
        str(row.batch),
        f"{1000 * steps.encode_seconds / row.batch:.2f}",
        f"{1000 * steps.step_seconds:.2f}",
        f"{1000 * steps.step_seconds / row.batch:.2f}",
    ]
    if has_gpu:
        cells += [f"{row.gpu.busy:.0%}", f"{row.gpu.peak_bytes / MIB:.0f}"] if row.gpu else ["", ""]
    return cells


def _measure(setup: Setup, batch: int, repeat: int) -> Steps:
    import numpy as np
    from faster_whisper.tokenizer import Tokenizer

    model = _model(setup)
    tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language="en")
    prompts = [model.get_prompt(tokenizer, [], without_timestamps=True)] * batch
    features = np.random.default_rng(0).normal(size=(batch, model.model.n_mels, FRAMES)).astype(np.float32)

    def decode(encoded: Any, tokens: int) -> int:
        """Decode a batch and return the number of tokens."""
        results = model.model.generate(
            encoded,
            prompts,
            beam_size=BEAM_SIZE,
            max_length=2 * tokens,  # CTranslate2 uses half of it for the prompt
            suppress_tokens=[tokenizer.eot],
            suppress_blank=False,
        )
        return len(results[0].sequences_ids[0])

    encoded = model.encode(features)
    few, many = decode(encoded, FEW_TOKENS), decode(encoded, MANY_TOKENS)  # warm-up of both
    began = time.monotonic()
    encode_seconds = median_seconds(lambda: model.encode(features), repeat)
    few_seconds = median_seconds(lambda: decode(encoded, FEW_TOKENS), repeat)
    many_seconds = median_seconds(lambda: decode(encoded, MANY_TOKENS), repeat)
    ended = time.monotonic()
    tokens = many - few
    return Steps(batch, encode_seconds, (many_seconds - few_seconds) / tokens, tokens, began, ended)


@cache
def _model(setup: Setup) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(setup.model, device=setup.device, compute_type=setup.compute_type, cpu_threads=setup.threads)


def median_seconds(action: Callable[[], Any], repeat: int) -> float:
    seconds = []
    for _ in range(repeat):
        began = time.monotonic()
        action()
        seconds.append(time.monotonic() - began)
    return median(seconds)
