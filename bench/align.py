"""`python -m bench.align`: compare the daemon's aligner with whisperx.align, step by step, on one passage in one run.

The model has the architecture of whisperx's default for English, WAV2VEC2_ASR_BASE_960H, and random weights, because
the real ones would come from a hub. The work of each step is the same, but the resulting word times mean nothing.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
import torchaudio
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from whisperx import alignment as whisperx_alignment

from bench.corpus import call
from bench.report import machine
from bench.setup import cores
from daemon.pipeline.alignment import ctc
from daemon.pipeline.alignment.wav2vec2 import Aligner
from daemon.pipeline.types import SAMPLE_RATE, Chunk, Passage

STEPS = ("forward", "trellis", "backtrack", "rest")
Times = dict[str, float]  # step → seconds


class OneSentence:
    """Replaces nltk's splitter, which whisperx would download and load again for each passage; this favours
    whisperx."""

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def make_aligner() -> Aligner:
    torch.manual_seed(0)
    model: torch.nn.Module = torchaudio.models.wav2vec2_base(aux_num_out=29).eval()
    labels = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H.get_labels()
    dictionary = {char.lower(): index for index, char in enumerate(labels)}
    return Aligner("random", "cpu", model, {"language": "en", "dictionary": dictionary, "type": "torchaudio"})


@contextmanager
def timed(owner: Any, name: str, step: str, times: Times) -> Iterator[None]:
    """Add up the time spent in the owner's function within the block."""
    function = getattr(owner, name)

    def wrapped(*values: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*values, **named)
        finally:
            times[step] = times.get(step, 0.0) + time.perf_counter() - began

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, function)


def measure(align: Callable[[], Any], module: Any, trellis: str, backtrack: str, model: torch.nn.Module) -> Times:
    times: Times = {}
    began = time.perf_counter()
    with (
        timed(model, "forward", "forward", times),
        timed(module, trellis, "trellis", times),
        timed(module, backtrack, "backtrack", times),
    ):
        align()
    times["all"] = time.perf_counter() - began
    times["rest"] = times["all"] - sum(times[step] for step in STEPS[:-1])
    times["all except forward"] = times["all"] - times["forward"]
    return times


def run(repeat: int) -> tuple[list[Times], list[Times]]:
    """Run ours and whisperx's alternately, after one warm-up each."""
    recording, aligner = call(), make_aligner()
    audio = np.array(recording.audio, np.float32)
    seconds = len(audio) / SAMPLE_RATE
    text = f" {recording.text}"
    passage = Passage(Chunk(0.0, seconds, ((0.0, seconds),)), text, None, language="en")
    segment = {"text": text, "start": 0.0, "end": seconds}
    whisperx_alignment.nltk_load = lambda _: OneSentence()

    def theirs() -> Any:
        return whisperx_alignment.align([segment], aligner.model, aligner.metadata, audio, "cpu")

    def ours() -> Any:
        return aligner.align([passage], audio)

    found: tuple[list[Times], list[Times]] = [], []
    for _ in range(repeat + 1):
        found[0].append(measure(ours, ctc, "_trellis", "_backtrack", aligner.model))
        found[1].append(measure(theirs, whisperx_alignment, "get_trellis", "backtrack", aligner.model))
    return found[0][1:], found[1][1:]


def table(ours: list[Times], theirs: list[Times]) -> Table:
    result = Table(box=SIMPLE_HEAD)
    for name in ("step", "transcriptd, ms", "min–max", "whisperx, ms", "min–max", "ratio"):
        result.add_column(name, justify="left" if name == "step" else "right", no_wrap=True)
    for step in (*STEPS, "all except forward", "all"):
        mine, other = ([1000 * times[step] for times in peer] for peer in (ours, theirs))
        cells = [cell for each in (mine, other) for cell in (f"{median(each):.1f}", f"{min(each):.1f}–{max(each):.1f}")]
        result.add_row(step, *cells, f"{median(other) / median(mine):.1f} ×")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    torch.set_num_threads(cores())
    ours, theirs = run(repeat)
    console = Console(width=120)
    console.print(machine(cores()), "30 s call of two speakers, one passage; random weights", sep="\n")
    console.print(table(ours, theirs))


if __name__ == "__main__":
    main()
