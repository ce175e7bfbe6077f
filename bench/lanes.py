"""`python -m bench.lanes`: the effect of a second thread on each step on a processor, and of an allocator that keeps
its memory.

The results justify daemon/pipeline/runtime/worker_pool.py and the environment that daemon/supervisor/process.py gives
the runner.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any, TypeVar

import numpy as np

from bench.corpus import call, short_clips
from bench.report import machine, markdown
from bench.setup import BATCH_SIZE, BEAM_SIZE, cores, find_model, job_options, settings_of_both
from bench.steps import median_seconds
from daemon.supervisor.process import ALLOCATOR

T = TypeVar("T")
JOBS_AT_ONCE = 8
PROMPT = [50258, 50259, 50359, 50363]  # of base: English, transcribe, no timestamps


@dataclass(frozen=True, slots=True)
class Cost:
    wall_seconds: float
    cpu_seconds: float
    page_faults: int
    peak_mib: float


def steps(threads: int, repeat: int) -> dict[str, float]:
    """Return each step's median wall seconds with this many threads per library, per chunk if there are several."""
    from daemon.pipeline.runtime.library_output import prepare_environment, quiet_loggers, suppress_library_output

    prepare_environment(None)
    with suppress_library_output():
        import ctranslate2
        import torch

        from daemon.pipeline.diarization.diarizer import Diarizer
        from daemon.pipeline.runtime.device import ComputeDevice
        from daemon.pipeline.runtime.worker_pool import WorkerPool
        from daemon.pipeline.speech.detector import SpeechDetector
    quiet_loggers()
    torch.set_num_threads(threads)
    device = ComputeDevice("cpu", "", "int8", lanes=1)
    detector = SpeechDetector(device, WorkerPool(1))
    diarizer = Diarizer("embedded", detector.model, device, WorkerPool(1), None)
    model = ctranslate2.models.Whisper(find_model("base"), compute_type="int8", intra_threads=threads)
    audio = call().audio
    speech = detector.detect(audio, lambda _: None)
    found: dict[str, float] = {}
    for batch in (1, 4, BATCH_SIZE):
        features = _view(np.stack([_spectrogram(audio)] * batch))
        encode = partial(model.encode, features)
        decode = partial(model.generate, encode(), [PROMPT] * batch, beam_size=BEAM_SIZE)
        found[f"Whisper's encoder, batch {batch}"] = _time(encode, repeat) / batch
        found[f"its decoder, batch {batch}"] = _time(decode, repeat) / batch
    found["segmentation"] = _time(lambda: detector.detect(audio, lambda _: None), repeat)
    found["diarization without it"] = _time(
        lambda: diarizer.diarize(audio, speech.segmentation, lambda _: None), repeat
    )
    return found


def _spectrogram(audio: np.ndarray) -> np.ndarray:
    from whisperx.audio import log_mel_spectrogram

    spectrogram: np.ndarray = log_mel_spectrogram(audio, 80).numpy()
    return spectrogram


def _view(features: np.ndarray) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(features)


def _time(action: Callable[[], object], repeat: int) -> float:
    action()  # warm-up
    return median_seconds(action, repeat)


def many_jobs(count: int) -> Cost:
    """Run short jobs through the pipeline, some concurrently, as the runner process does. The peak is that of the whole
    process."""
    from daemon.pipeline.checkpoints.store import Checkpoints
    from daemon.pipeline.runtime.reporter import NullReporter
    from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
    from daemon.protocol.runner_settings import RunnerSettings

    base = find_model("base")
    settings = RunnerSettings(
        model=base,
        models=("base",),
        max_loaded_models=1,
        device="cpu",
        compute_type="int8",
        batch_size=BATCH_SIZE,
        unpadded_models=(),
        cpu_threads=0,
        diarization_model="embedded",
        alignment_models=(),
        hf_token=None,
        weights_manifest=None,
        require_pinned_weights=False,
    )
    pipeline = WhisperXPipeline(settings)
    pipeline.load()
    job = job_options(settings_of_both(threads=0), model="base", align="attention")

    def run(audio: np.ndarray) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pipeline.run("bench", [audio], job, NullReporter(), Checkpoints(Path(folder), lambda _: None))

    clips = [clip.audio for clip in short_clips(count)]
    run(clips[0])
    before, began = getrusage(RUSAGE_SELF), time.monotonic()
    with ThreadPoolExecutor(JOBS_AT_ONCE) as jobs:
        list(jobs.map(run, clips))
    wall, after = time.monotonic() - began, getrusage(RUSAGE_SELF)
    return Cost(
        wall,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        after.ru_minflt - before.ru_minflt,
        after.ru_maxrss / 1024,
    )


def alone(action: Callable[..., T], *arguments: Any, environment: Mapping[str, str] | None = None) -> T:
    """Return the action's result in a new process with these additions to its environment."""
    with _environment(environment or {}), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(action, *arguments).result()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=24)
    arguments = parser.parse_args()
    one, all_of_them = (alone(steps, threads, arguments.repeat) for threads in (1, cores()))
    rows = [["Step, the call of 30 s", "1 thread, ms", f"{cores()} threads, ms", "Ratio"]]
    for step, seconds in one.items():
        several = all_of_them[step]
        rows.append([step, f"{1000 * seconds:.0f}", f"{1000 * several:.0f}", f"{seconds / several:.2f}"])
    kinds: dict[str, dict[str, str]] = {"glibc default": {}, "the runner's": dict(ALLOCATOR)}
    costs = [[f"{arguments.jobs} short jobs; allocator", "Wall, s", "Processor, s", "Page faults", "Peak MiB"]]
    for name, environment in kinds.items():
        cost = alone(many_jobs, arguments.jobs, environment=environment)
        costs.append(
            [
                name,
                f"{cost.wall_seconds:.1f}",
                f"{cost.cpu_seconds:.1f}",
                f"{cost.page_faults:,}",
                f"{cost.peak_mib:.0f}",
            ]
        )
    print(machine(cores()), markdown(rows, words=(0,)), markdown(costs, words=(0,)), sep="\n\n")


if __name__ == "__main__":
    main()
