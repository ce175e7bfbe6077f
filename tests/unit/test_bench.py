"""The benchmark's own logic: corpora, measures and tables."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import accuracy_table, corpora, gpu, steps, throughput
from bench.corpora import CORPORA
from bench.corpus import Recording
from bench.daemon_jobs import Job
from bench.espeak import speak
from bench.gpu_watch import GpuUse, GpuWatch, gpu_name
from bench.hypothesis import Hypothesis, Segment
from bench.overhead import OneJob, overhead_table
from bench.peers import PEERS
from bench.reference import Sentence
from bench.report import END, spread, write_measured
from bench.run import File, Row, Run
from bench.setup import Setup
from bench.steps import Steps, StepsRow, measure_steps, steps_table
from bench.throughput import PAGE, subset
from bench.throughput_table import BASELINE, comparisons, ratios, table
from bench.usage import ProcessWatch, running
from bench.waiting import wait_for
from daemon.pipeline.types import SAMPLE_RATE, Turn
from tests.support.nvml.fake import GPU_IS_LOST, FakeNvml, FakeNvmlError

# --- recordings


@pytest.mark.parametrize(
    ("name", "files", "minutes"), [("clips", 60, 13), ("ten", 6, 60), ("hour", 1, 60), ("mix", 43, 60)]
)
def test_corpus_has_the_declared_size(name: str, files: int, minutes: float) -> None:
    recordings = CORPORA[name](1.0)
    assert len({recording.name for recording in recordings}) == len(recordings) == files
    assert sum(recording.duration for recording in recordings) / 60 == pytest.approx(minutes, rel=0.05)
    if name == "clips":
        durations = [recording.duration for recording in recordings]
        assert 2 <= min(durations) < 5
        assert 25 < max(durations) <= 31


@pytest.mark.parametrize("name", CORPORA)
def test_annotations_of_a_corpus_are_consistent(name: str) -> None:
    for recording in CORPORA[name](0.05):
        assert recording.audio.dtype == np.float32
        assert recording.text
        starts = [sentence.start for sentence in recording.sentences]
        assert starts == sorted(starts)
        for turn in recording.turns:
            assert 0 <= turn.start < turn.end <= recording.duration + 0.1
            spoken = recording.audio[round(turn.start * SAMPLE_RATE) : round(turn.end * SAMPLE_RATE)]
            assert np.abs(spoken).max() > 0.005, "speech must be audible"
        for sentence in recording.sentences:
            spoken_by = {t.speaker for t in recording.turns if t.start - 0.5 <= sentence.start <= t.end}
            assert spoken_by
            if sentence.speaker in corpora.VOICES:  # the call's text labels its speakers differently than its turns do
                assert sentence.speaker in spoken_by


def test_recordings_contain_real_and_generated_speech() -> None:
    for name in ("clips", "ten", "mix"):
        said = [{turn.speaker in corpora.VOICES for turn in recording.turns} for recording in CORPORA[name](0.2)]
        assert {True} in said
        assert {False} in said
    speakers = {turn.speaker for turn in CORPORA["hour"](0.2)[0].turns}
    assert len(speakers) == 4


def test_generated_speech_is_the_same_in_each_process() -> None:
    code = """
import hashlib
from bench import corpora
print(hashlib.sha256(b"".join(piece.audio.tobytes() for piece in corpora.generated())).hexdigest())
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(b"".join(piece.audio.tobytes() for piece in corpora.generated())).hexdigest()


def test_generated_speech_does_not_depend_on_earlier_texts() -> None:
    voices = ("de", "es", "en-us")  # variants such as en-us+f3 draw random numbers
    forward = {voice: speak("One two three.", voice) for voice in voices}
    speak.cache_clear()
    speak("Something else altogether.", "en-us")
    backward = {voice: speak("One two three.", voice) for voice in reversed(voices)}
    for voice in voices:
        np.testing.assert_array_equal(backward[voice], forward[voice], err_msg=voice)


def test_generated_speech_fills_its_turn() -> None:
    for piece in corpora.generated():
        assert np.abs(piece.audio[[0, -1]]).min() > corpora.QUIET
        assert (piece.turns[0].start, piece.turns[0].end) == (0.0, piece.duration)


def lasting(*seconds: float) -> list[Recording]:
    return [
        Recording(f"{number}", np.zeros(round(each * SAMPLE_RATE), np.float32), [], [])
        for number, each in enumerate(seconds)
    ]


def test_peers_that_load_models_for_each_file_get_a_few_short_ones() -> None:
    recordings = lasting(600, 5, 10, 600, 15, 20)
    assert [each.duration for each in subset(recordings, 2)] == [5, 15]
    assert [each.duration for each in subset(recordings, 9)] == [5, 10, 15, 20]
    assert [each.duration for each in subset(lasting(600, 600), 2)] == [600]
    assert subset(lasting(3600), 2) == []


# --- runs


class Watched(ProcessWatch):
    """A watch with fixed final values."""

    def __init__(self, processor_seconds: float, peak_bytes: int) -> None:
        self._before, self._now, self.peak_bytes = 0.0, processor_seconds, peak_bytes


SENTENCE, TURN = Sentence(0.0, "cats sleep under tables", "a"), Turn(0.0, 4.0, "a")


def test_run_aggregates_the_measurements() -> None:
    silence = np.zeros(10 * SAMPLE_RATE, np.float32)
    recordings = [
        Recording("x", silence, [SENTENCE], [TURN]),
        Recording("y", silence, [SENTENCE], [Turn(0.0, 8.0, "a")]),
    ]
    exact = Hypothesis([Segment(0.0, 4.0, "Cats sleep under tables.", "S")], [])
    wrong = Hypothesis([Segment(0.0, 6.0, "Cats sleep.", "S")], [])
    run = Run.of(
        recordings,
        [exact, wrong],
        [Watched(3.0, 100), Watched(1.0, 300)],
        began=0.0,
        wall_seconds=5.0,
        threads=2,
        file_seconds=[1.0, 4.0],
        busy_seconds=4.0,
        stages=[{"vad": 0.5, "asr": 0.25}, {"asr": 2.0}],
        model_watches=[Watched(2.5, 90), Watched(1.3, 10)],
    )
    assert (run.audio_seconds, run.speed) == (20.0, 4.0)
    assert (run.speed_on(["x"]), run.speed_on(["y"]), run.speed_on(["x", "y"])) == (10.0, 2.5, 4.0)
    assert run.slot_idle == pytest.approx(0.2)
    assert run.processors_idle == pytest.approx(0.6), "4 of 10 processor seconds were used"
    assert run.daemon_share == pytest.approx(0.05), "of the 4 that were used, 3.8 were in the models"
    assert run.peak_bytes == 300
    assert run.stage_seconds == {"vad": 0.5, "asr": 2.25}
    assert run.wer == 0.25
    assert run.der == pytest.approx(2 / 12), "2 of the 12 s of speech were missed"


def test_values_that_a_peer_does_not_report_are_none() -> None:
    (recording,) = lasting(10)
    said = Recording(recording.name, recording.audio, [SENTENCE], [TURN])
    hypotheses = [Hypothesis([Segment(0.0, 4.0, "Cats sleep under tables.", None)], [])]
    run = Run.of([said], hypotheses, [Watched(30.0, 1)], began=0, wall_seconds=2.0, threads=2, tells_speakers=False)
    assert (run.der, run.slot_idle, run.daemon_share) == (None, None, None)
    assert run.processors_idle == 0.0, "it used more threads than configured"
    with pytest.raises(ValueError, match="timed separately"):
        run.speed_on([recording.name])


WORK = """
import subprocess, sys, time
child = "import time; held = bytearray(150_000_000)\\nwhile time.process_time() < 0.5: pass\\nprint(flush=True); input()"
bytearray(100_000_000)
started = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
started.stdout.readline(); print("worked", flush=True); input()
started.communicate("\\n"); print("ended", flush=True); input()
"""


def test_process_watch_includes_children() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with ProcessWatch(process.pid, since_start=True) as watch:
            assert process.stdout.readline() == "worked\n"
        with ProcessWatch(process.pid) as later:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ended\n"
        process.communicate("\n")
    assert watch.processor_seconds >= 0.45
    assert 250e6 < watch.peak_bytes < 400e6, "the sum of both"
    assert later.processor_seconds < watch.processor_seconds, "usage before the block does not count"
    assert later.peak_bytes > 100e6


def test_processes_are_found_by_their_module() -> None:
    server = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'http.server', '0', '--bind', '127.0.0.1'])"
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_for(lambda: len(running("http.server", process.pid)) == 1, "the server runs")
        (found,) = running("http.server", process.pid)
        assert found != process.pid
        assert running("http", process.pid) == []
        os.kill(found, signal.SIGTERM)


def test_usage_of_exited_processes_is_kept() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\ninput()"
    with (
        subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, text=True) as process,
        ProcessWatch(process.pid, since_start=True) as watch,
    ):
        wait_for(
            lambda: watch.processor_seconds >= 0.25, "the process has worked"
        )  # the kernel counts in ticks of 10 ms
        process.communicate("\n")
    assert watch.processor_seconds >= 0.25
    assert watch.peak_bytes > 1e6


# --- tables


def row(
    peer: str, seconds: float, repetition: int = 0, corpus: str = "clips", files: int = 2, **changes: object
) -> Row:
    """Return a run over the corpus's first files, of 10 s and 20 s; processing takes `seconds` per second of audio."""
    walls = {10.0: 10 * seconds, 20.0: 20 * seconds}
    chosen = list(walls.items())[:files]
    fields: dict[str, object] = {
        "files": [File(f"{audio:g}", audio, wall if peer != "transcriptd" else None) for audio, wall in chosen],
        "began": 0.0,
        "wall_seconds": sum(wall for _, wall in chosen),
        "threads": 2,
        "processor_seconds": 0.0,
        "model_seconds": None,
        "busy_seconds": None,
        "peak_bytes": 2**20,
        "stage_seconds": {},
        "wer": 0.1,
        "der": None,
        **changes,
    }
    return Row(corpus, 2, repetition, peer, Run(**fields))  # type: ignore[arg-type]


def lines(text: str) -> list[list[str]]:
    """Return the cells of each row of a table, without the header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_row_has_medians_and_the_range() -> None:
    rows = [
        *[row(BASELINE, seconds, index) for index, seconds in enumerate((0.5, 0.25, 0.2))],
        *[row("transcriptd", seconds, index) for index, seconds in enumerate((0.25, 0.1, 0.1))],
    ]
    (_, title, speed, ratio, *_), (_, other, other_speed, other_ratio, *_) = lines(table(rows))
    assert (title, other) == (PEERS[BASELINE].title, "transcriptd")
    assert (speed, ratio) == ("4.00 (2.00–5.00)", "1.00")
    assert (other_speed, other_ratio) == ("10.00 (4.00–10.00)", "2.00 (2.00–2.50)"), (
        "ratios are computed per repetition"
    )


def test_subset_of_files_is_compared_with_the_same_files() -> None:
    slow_on_the_second = row(
        BASELINE, 0.5, files=2, wall_seconds=25.0
    )  # 10 s in 5 s and 20 s in 20 s: 0.5 and 1 s per second of audio
    slow_on_the_second.run.files[1] = File("20", 20.0, 20.0)
    rows = [slow_on_the_second, row("command", 2.0, files=1)]
    assert ratios(rows[1:], rows) == [0.25], "compared with 0.5 s, not with the mean"
    (_, command) = lines(table(rows))
    assert command[1] == f"{PEERS['command'].title} (1 of 2 files)"


def test_without_a_baseline_there_is_no_ratio() -> None:
    ((_, _, _, ratio, *_),) = lines(table([row("transcriptd", 0.5)]))
    assert ratio == "–"


def test_corpora_are_separate_and_missing_values_are_dashes() -> None:
    rows = [
        row(BASELINE, 0.5, corpus="mix", der=0.5, busy_seconds=15.0, processor_seconds=7.5, model_seconds=7.35),
        row(BASELINE, 0.5, corpus="hour", stage_seconds={"vad": 1.0, "asr": 3.0, "align": 0.001}),
    ]
    first, second = lines(table(rows))
    assert first[4:] == ["0.100", "0.500", "1", "0%", "75%", "2.0%", "–"]
    assert second[4:] == ["0.100", "–", "1", "–", "100%", "–", "vad 25%, asr 75%"]


def test_peers_are_compared_by_their_ratios() -> None:
    rows = [row(BASELINE, 0.5), row("transcriptd", 0.25), row("command", 5.0, files=1)]
    assert comparisons(rows) == (
        f"The speed of transcriptd, as a multiple of each peer's:\n\n- clips: 2.0 × {PEERS[BASELINE].title}; 20.0 × {PEERS['command'].title}\n"
    )
    assert comparisons(rows[:1]) == ""


def test_gpu_columns() -> None:
    rows = [
        Row("clips", 2, 0, BASELINE, row(BASELINE, 0.5).run, GpuUse(0.25, 3 * 2**30)),
        Row("clips", 2, 1, BASELINE, row(BASELINE, 0.5).run, GpuUse(0.75, 2 * 2**30)),
    ]
    ((*_, busy, peak),) = lines(table(rows))
    assert (busy, peak) == ("50%", "3072")


def test_range_is_printed_where_there_is_one() -> None:
    assert spread([0.101, 0.101], decimals=3) == "0.101"
    assert spread([1.0, 3.0, 2.0]) == "2.00 (1.00–3.00)"


def test_overhead_is_the_time_outside_the_runner() -> None:
    stages = {"vad": 1.0, "asr": 7.0, "diarize": 4.0, "download": 0.1, "decode": 0.5, "wait": 0.1, "publish": 0.1}
    transcript: Any = None  # not used
    job = Job(10.0, 9.0, stages, transcript)  # some stages ran in parallel before it waited
    assert job.overhead_seconds == pytest.approx(1.0)
    assert job.overhead["rest"] == pytest.approx(0.3)
    by_name = {name.strip("· *"): cells for name, *cells in lines(overhead_table([OneJob.of(job, 10.5)] * 2))}
    assert by_name["in the runner"] == ["9000", "9000–9000", "90.0%"]
    assert by_name["overhead** (target: ≤ 3 %)"] == ["1000", "1000–1000", "10.0%"]
    assert by_name["SendMessage → job.completed"] == ["10500", "10500–10500", ""]


# --- the GPU


class RisingNvml(FakeNvml):
    """A GPU whose utilization rises with each sample, up to 100 %."""

    looks = 0

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> object:
        self.looks += 1
        rates = super().nvmlDeviceGetUtilizationRates(handle)
        rates.gpu = min(100, 20 * self.looks)
        return rates


def test_gpu_utilization_is_that_of_the_requested_period() -> None:
    nvml = RisingNvml()
    watch = GpuWatch(nvml)
    began = time.monotonic()
    assert watch.use(began, began) == (0.2, 3 * 2**30), "the nearest sample if none lies within the period"
    with watch:
        wait_for(lambda: nvml.looks > 6, "the GPU is sampled")
    assert 0.2 < watch.use(began, time.monotonic()).busy <= 1.0
    assert watch.use(began - 60, time.monotonic()).busy < watch.use(began, time.monotonic()).busy
    assert gpu_name(nvml) == "Fake GPU, driver 570.0"


def test_gpu_that_stops_responding_is_reported() -> None:
    nvml = RisingNvml()
    with GpuWatch(nvml) as watch:
        nvml.errors["memory"] = GPU_IS_LOST
        looks = nvml.looks
        wait_for(lambda: nvml.looks > looks, "the GPU is sampled")
    with pytest.raises(FakeNvmlError):
        watch.use(0.0, time.monotonic())


def test_batch_that_runs_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Steps:
        raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr(steps, "_measure", fail)
    assert measure_steps(Setup("base"), 64, 1) is None
    measured = Steps(batch=4, encode_seconds=0.4, step_seconds=0.02, tokens=64, began=0.0, ended=1.0)
    rows = [StepsRow(4, measured, GpuUse(0.9, 5 * 2**30)), StepsRow(64, None, None)]
    assert lines(steps_table(rows)) == [
        ["4", "100.00", "20.00", "5.00", "90%", "5120"],
        ["64", "out of memory", "", "", "", ""],
    ]
    assert lines(steps_table([StepsRow(4, measured, None)])) == [["4", "100.00", "20.00", "5.00"]]


def test_any_other_failure_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Steps:
        raise RuntimeError("the model's file is damaged")

    monkeypatch.setattr(steps, "_measure", fail)
    with pytest.raises(RuntimeError, match="damaged"):
        measure_steps(Setup("base"), 1, 1)


# --- pages


def test_each_command_writes_its_own_section(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"A\n<!-- measured: one -->\nold\n{END}\nB\n<!-- measured: two -->\nold\n{END}\nC\n")
    write_measured(page, "two", "new")
    assert page.read_text() == (f"A\n<!-- measured: one -->\nold\n{END}\nB\n<!-- measured: two -->\n\nnew\n{END}\nC\n")
    with pytest.raises(ValueError, match="no section"):
        write_measured(page, "three", "new")


@pytest.mark.parametrize(
    ("page", "command"),
    [
        (PAGE, throughput.COMMAND),
        (PAGE, gpu.COMMAND),
        (accuracy_table.PAGE, accuracy_table.COMMAND),
        (accuracy_table.PAGE, accuracy_table.CONVERSATIONS_COMMAND),
    ],
)
def test_pages_have_the_sections(page: Path, command: str, tmp_path: Path) -> None:
    copy = tmp_path / page.name
    copy.write_text(page.read_text())
    write_measured(copy, command, "the figures")
    assert "the figures" in copy.read_text()
