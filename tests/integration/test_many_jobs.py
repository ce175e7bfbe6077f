"""Several jobs in the real pipeline at once share batches, and none is affected."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bench.espeak import GERMAN, SPANISH, speak
from bench.reference import sample_audio
from daemon.errors import Interrupted
from daemon.pipeline.runtime.schedule import WorkItem
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript
from tests.support.pipeline import Recorder, decode_simply, loaded, options, transcribe
from tests.support.time.virtual import VirtualTime

RATE = 16_000


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> WhisperXPipeline:
    found = loaded()[0]
    decode_simply(monkeypatch)
    return found


def call(start: float, end: float) -> np.ndarray:
    part: np.ndarray = sample_audio()[int(start * RATE) : int(end * RATE)]
    return part


# Jobs that differ in language, task, prompt, length, model and further stages.
JOBS: dict[str, tuple[Callable[[], np.ndarray], JobOptions]] = {
    "call": (lambda: call(6.5, 20.2), options(model="base")),
    "german": (lambda: speak(GERMAN, "de"), options(model="base", diarize=False)),
    "translated": (lambda: speak(SPANISH, "es"), options(model="base", diarize=False, task="translate")),
    "prompted": (lambda: call(6.5, 14.3), options(model="base", language="en", diarize=False, vocabulary=["Dianne"])),
    "short": (lambda: call(12.4, 14.3), options(model="base", language="en")),
    "tiny": (lambda: call(7, 14.3), options(model="tiny.en", align="off", diarize=False)),
    "silent": (lambda: np.zeros(3 * RATE, np.float32), options(model="base")),
}


def plain(transcript: Transcript) -> Any:
    """Return the transcript without its timings."""
    return transcript.model_copy(update={"job_id": "", "timings_seconds": {}})


def test_concurrent_jobs_give_the_results_of_single_ones(pipeline: WhisperXPipeline) -> None:
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
    assert sum(size for size, _ in batches) >= chunks, "every chunk was in a batch that some job reported"


def hold_back(
    pipeline: WhisperXPipeline,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    on_release: Callable[[], None] = lambda: None,
) -> None:
    """Delay decoding until `count` jobs have submitted work."""
    assert pipeline._stages is not None
    schedule = pipeline._stages.engine._batcher._schedule
    add, held = schedule.add, list[WorkItem]()

    def add_together(items: Iterable[WorkItem]) -> None:
        for item in items:
            if item.key.operation != "generate" or len({it.owner.age for it in held}) >= count:
                add([item])
                continue
            held.append(item)
            if len({it.owner.age for it in held}) == count:
                on_release()
                add(held)

    monkeypatch.setattr(schedule, "add", add_together)


def test_a_shared_batch_changes_nothing(pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs whose chunks are decoded in one batch: delayed until there are more than idle lanes would split up."""
    assert pipeline._stages is not None
    count = pipeline._stages.lanes.count + 1
    audio, job = JOBS["short"]
    alone = plain(transcribe(pipeline, "alone", audio(), job))
    hold_back(pipeline, monkeypatch, count)
    recorders = [Recorder() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        together = list(pool.map(lambda it: plain(transcribe(pipeline, "one", audio(), job, it)), recorders))
    assert together == [alone] * count
    sizes = [size for recorder in recorders for size, _ in recorder.batches]
    assert max(sizes) > 1, "each job has one chunk, so a larger batch is shared"


def test_cancelled_job_disturbs_no_other(pipeline: WhisperXPipeline) -> None:
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


def test_waiting_for_other_jobs_does_not_count_for_a_stage(
    pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stands still, except for an hour while all jobs wait. Shares of a batch:
    tests/unit/test_batching.py."""
    audio, job = JOBS["short"]
    undiarized = job.model_copy(update={"diarize": False})  # a background stage would be running at that time
    clock = VirtualTime()

    def wait_an_hour() -> None:
        clock.now += 3600

    hold_back(pipeline, monkeypatch, 3, wait_an_hour)
    clock.patch(monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda _: transcribe(pipeline, "one", audio(), undiarized), range(3)))
    assert clock.now == 3600
    for transcript in together:
        assert transcript.timings_seconds == {"vad": 0, "asr": 0, "align": 0}
