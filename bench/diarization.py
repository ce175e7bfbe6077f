"""`python -m bench.diarization`: compare the cost of voice activity detection and diarization with unmodified
pyannote.audio.

Both run alternately on one thread, so that processor seconds are comparable on a machine that does other work, too.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.corpus import call, shifted_turns, write_loops
from bench.measures import diarization_error_rate
from bench.reference import sample_audio
from bench.report import machine
from daemon.pipeline.runtime.library_output import suppress_library_output
from daemon.pipeline.types import SAMPLE_RATE

PYANNOTE_BATCH_SIZE = 32
WESPEAKER_SECONDS = 15  # of the call: the ResNet takes 1.8 times the length of the audio, trained or not


class Clock:
    """Processor and wall-clock seconds by measurement."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {}

    def time(self, name: str, action: Callable[[], Any]) -> Any:
        processor, wall = time.process_time(), time.perf_counter()
        result = action()
        measured = time.process_time() - processor, time.perf_counter() - wall
        self.seconds.setdefault(name, []).append(measured)
        return result

    def median(self, name: str) -> tuple[float, float]:
        processor, wall = zip(*self.seconds[name], strict=True)
        return statistics.median(processor), statistics.median(wall)


def compare(clock: Clock, detector: Any, diarizer: Any, audio: np.ndarray, repeat: int) -> dict[str, list[Any]]:
    """Time both and return the turns that each finds in the last run."""
    from pyannote.audio import Inference
    from pyannote.audio.pipelines import SpeakerDiarization

    pipeline, file = diarizer._pipeline, _file(audio)
    plain = Inference(detector.model, skip_aggregation=True, batch_size=PYANNOTE_BATCH_SIZE)
    embed: dict[str, Any] = {
        "after": pipeline.get_embeddings,
        "before": SpeakerDiarization.get_embeddings.__get__(pipeline),
    }
    sizes = {"after": None, "before": PYANNOTE_BATCH_SIZE}
    turns: dict[str, list[Any]] = {}
    detector.inference.batch_size = detector.batch_size
    for _ in range(repeat):
        for which, inference in (("before", plain), ("after", detector.inference)):
            scores = clock.time(f"segmentation {which}", partial(inference, file))
            pipeline.get_embeddings = partial(_timed, clock, f"embeddings {which}", embed[which])
            diarize = partial(diarizer.diarize, expected_speakers=(2, 6), batch_size=sizes[which])
            found = clock.time(f"diarization {which}", partial(diarize, audio, scores, lambda _: None))
            turns[which] = found.turns
    return turns


def compare_wespeaker(clock: Clock, detector: Any, repeat: int) -> float:
    """Time the embeddings of an untrained WeSpeaker ResNet34, the model of the hub's pipelines, and return their
    largest difference."""
    from pyannote.audio.core.plda import PLDA
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.pipelines import SpeakerDiarization
    from pyannote.audio.utils.signal import binarize

    from daemon.pipeline.pyannote_adapter.speaker_embeddings import stack_masks
    from daemon.pipeline.runtime.worker_pool import WorkerPool

    model = WeSpeakerResNet34()
    model.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=["a", "b"]
    )
    pipeline: Any = SpeakerDiarization(
        segmentation=detector.model,
        embedding=model,
        clustering="AgglomerativeClustering",
        plda=object.__new__(PLDA),
    )
    pipeline.instantiate(
        {
            "segmentation": {"threshold": 0.5, "min_duration_off": 0.0},
            "clustering": {"method": "centroid", "threshold": 0.7, "min_cluster_size": 12},
        }
    )
    before = SpeakerDiarization.get_embeddings.__get__(pipeline)
    stack_masks(pipeline, WorkerPool(1))
    file = _file(sample_audio()[: WESPEAKER_SECONDS * SAMPLE_RATE])
    masks = binarize(detector.inference(file), onset=0.5, initial_state=False)
    for _ in range(repeat):
        pipeline.embedding_batch_size = PYANNOTE_BATCH_SIZE
        theirs = clock.time("wespeaker before", partial(before, file, masks))
        pipeline.embedding_batch_size = detector.batch_size
        ours = clock.time("wespeaker after", partial(pipeline.get_embeddings, file, masks))
    return float(np.abs(ours - theirs).max())


def _timed(clock: Clock, name: str, action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return clock.time(name, partial(action, *arguments, **options))


def _file(audio: np.ndarray) -> dict[str, Any]:
    return {"waveform": torch.from_numpy(audio)[None], "sample_rate": SAMPLE_RATE, "uri": "bench"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="length in seconds; above 30 the call is repeated with pauses"
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--wespeaker", action="store_true", help=f"also measure WeSpeaker's ResNet34, on {WESPEAKER_SECONDS} s"
    )
    arguments = parser.parse_args()
    console, clock = Console(highlight=False), Clock()
    with ExitStack() as stack:
        audio, starts = sample_audio(), [0.0]
        if arguments.seconds > len(audio) / SAMPLE_RATE:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transcriptd-bench-"))) / "audio.f32"
            starts = write_loops(path, arguments.seconds)
            audio = np.fromfile(path, "<f4")
        with suppress_library_output():
            from daemon.pipeline.diarization.diarizer import Diarizer
            from daemon.pipeline.runtime.device import choose_device
            from daemon.pipeline.runtime.worker_pool import WorkerPool
            from daemon.pipeline.speech.detector import SpeechDetector

            device = choose_device("cpu", "auto", cpu_threads=1)
            lanes = WorkerPool(device.lanes)
            detector = SpeechDetector(device, lanes)
            diarizer = Diarizer("embedded", detector.model, device, lanes, None)
            turns = compare(clock, detector, diarizer, audio, arguments.repeat)
            differ = compare_wespeaker(clock, detector, arguments.repeat) if arguments.wespeaker else None
    duration = len(audio) / SAMPLE_RATE
    spoken = [turn for start in starts for turn in shifted_turns(call().turns, start)]
    table = Table("step", "processor s", "", "ratio", "wall s", "", box=SIMPLE_HEAD)
    for step in dict.fromkeys(name.split()[0] for name in clock.seconds):
        (before, before_wall), (after, after_wall) = clock.median(f"{step} before"), clock.median(f"{step} after")
        cells = f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}", f"{before_wall:.2f}", f"{after_wall:.2f}"
        table.add_row(step, *cells)
    console.print(
        f"{machine(1)}\n{duration:.0f} s, n = {arguments.repeat}; before: unmodified pyannote.audio; after: transcriptd"
    )
    console.print(table)
    errors = {which: f"{diarization_error_rate(spoken, turns[which], duration):.3f}" for which in turns}
    console.print(f"DER {errors}; identical turns: {turns['before'] == turns['after']}; load {os.getloadavg()[0]:.1f}")
    if differ is not None:
        console.print(f"WeSpeaker's embeddings differ by at most {differ:.1e}")
    return 0 if turns["before"] == turns["after"] else 1


if __name__ == "__main__":
    sys.exit(main())
