"""Several jobs in the real pipeline at once: they share batches, and none can tell."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from daemon.errors import Interrupted
from daemon.options import JobOptions
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.transcript import Transcript
from tests.espeak import GERMAN, SPANISH, speak
from tests.integration.pipeline_fixture import Recorder, loaded, options, sample_audio, transcribe

RATE = 16_000


@pytest.fixture(scope="module")
def pipeline() -> WhisperXPipeline:
    return loaded()[0]


def call(start: float, end: float) -> np.ndarray:
    part: np.ndarray = sample_audio()[int(start * RATE) : int(end * RATE)]
    return part


# Jobs that have little in common: language, task, prompt, length, model, what is done besides.
JOBS: dict[str, tuple[Callable[[], np.ndarray], JobOptions]] = {
    "call": (lambda: call(0, 30), options(model="base")),
    "german": (lambda: speak(GERMAN, "de"), options(model="base", diarize=False)),
    "translated": (lambda: speak(SPANISH, "es"), options(model="base", diarize=False, task="translate")),
    "prompted": (lambda: call(6.5, 14.3), options(model="base", language="en", diarize=False, vocabulary=["Dianne"])),
    "short": (lambda: call(12.4, 14.3), options(model="base", language="en")),
    "tiny": (lambda: call(7, 22), options(model="tiny.en", align="off", diarize=False)),
    "silent": (lambda: np.zeros(3 * RATE, np.float32), options(model="base")),
}


def plain(transcript: Transcript) -> Any:
    """What is the customer's: everything but how long it took."""
    return transcript.model_copy(update={"job_id": "", "timings_seconds": {}})


def test_jobs_come_out_as_if_they_were_alone(pipeline: WhisperXPipeline) -> None:
    alone = {name: plain(transcribe(pipeline, name, audio(), job)) for name, (audio, job) in JOBS.items()}
    recorders = {name: Recorder() for name in JOBS}

    def run(name: str) -> Transcript:
        audio, job = JOBS[name]
        return transcribe(pipeline, name, audio(), job, recorders[name])

    with ThreadPoolExecutor(len(JOBS)) as pool:
        together = dict(zip(JOBS, pool.map(run, JOBS), strict=True))
    for name, transcript in together.items():
        assert plain(transcript) == alone[name], name
    batches = [batch for recorder in recorders.values() for batch in recorder.batches]
    chunks = sum(heard[0] for recorder in recorders.values() for heard in recorder.chunks)
    assert sum(size for size, _ in batches) >= chunks, "every chunk was in a batch that somebody told of"
    assert len(batches) < chunks, "some were shared"


def test_one_that_is_given_up_disturbs_nobody(pipeline: WhisperXPipeline) -> None:
    audio, job = JOBS["call"]
    alone = plain(transcribe(pipeline, "alone", audio(), job))
    recorders = [Recorder(), Recorder(cancel_at=6), Recorder(cancel_at=12), Recorder()]

    def run(recorder: Recorder) -> Transcript | str:
        try:
            return transcribe(pipeline, "one", audio(), job, recorder)
        except Interrupted:
            return "given up"

    with ThreadPoolExecutor(len(recorders)) as pool:
        found = list(pool.map(run, recorders))
    assert [it if isinstance(it, str) else plain(it) for it in found] == [alone, "given up", "given up", alone]


def test_waiting_for_others_is_no_stages_time(pipeline: WhisperXPipeline) -> None:
    """Jobs that wait for each other take the time of all of them, and each names its own share."""
    audio, job = JOBS["call"]
    recorders = [Recorder() for _ in range(3)]

    def run(recorder: Recorder) -> float:
        return sum(transcribe(pipeline, "one", audio(), job, recorder).timings_seconds.values())

    import time

    began = time.monotonic()
    with ThreadPoolExecutor(len(recorders)) as pool:
        shares = list(pool.map(run, recorders))
    wall = time.monotonic() - began
    # At once there may be Whisper in every lane, speech detection and diarization.
    assert pipeline._stages is not None
    assert wall / 3 < sum(shares) < (pipeline._stages.lanes.count + 2.5) * wall
