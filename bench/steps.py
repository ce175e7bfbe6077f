"""How long Whisper's encoder takes for a chunk, and its decoder for a step, by batch size. The weights may mean nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from bench.gpu_watch import GpuUse
from bench.report import markdown
from bench.setup import BEAM_SIZE, Setup

FRAMES = 3000  # of a chunk of 30 s
# Random weights never come to an end by themselves, and real ones end where they want: both decode these many tokens.
# What comes before the first step is in both, and falls out of the difference.
FEW_TOKENS, MANY_TOKENS = 16, 80
HEADINGS = ["Batch", "Encoder, ms a chunk", "Decoder, ms a step", "ms a step and chunk"]
GPU_HEADINGS = ["GPU busy", "VRAM MiB"]
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Steps:
    batch: int
    encode_seconds: float  # of the whole batch
    step_seconds: float  # of the whole batch
    tokens: int  # steps that were timed
    began: float  # of the monotonic clock
    ended: float


@dataclass(frozen=True, slots=True)
class StepsRow:
    batch: int
    steps: Steps | None  # None where memory did not suffice
    gpu: GpuUse | None


def measure_steps(setup: Setup, batch: int, repeat: int) -> Steps | None:
    """Medians. To be called in a process of its own, in which the model stays; None when it runs out of memory."""
    from daemon.pipeline.devices import Failure, classify

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
        """How many tokens came of it."""
        results = model.model.generate(
            encoded,
            prompts,
            beam_size=BEAM_SIZE,
            max_length=2 * tokens,  # of which CTranslate2 takes half for the prompt
            suppress_tokens=[tokenizer.eot],
            suppress_blank=False,
        )
        return len(results[0].sequences_ids[0])

    encoded = model.encode(features)
    few, many = decode(encoded, FEW_TOKENS), decode(encoded, MANY_TOKENS)  # both warm up
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
