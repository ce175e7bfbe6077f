"""`python -m bench.long`: measure the cost of long recordings in the runner process, and the cost of a kill to a long
job.

Uses real models on the CPU through the real runner process, a new one for each length. docs/performance.md explains the
columns. With `--kill-at 0.9` the process is killed once this share is transcribed and the job is repeated, as in a
second delivery: the exit status is 0 if at most one group of chunks was decoded twice.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.corpus import call, shifted_turns, write_loops
from bench.measures import diarization_error_rate, word_error_rate
from bench.memory import MemoryWatch
from bench.real_runner import open_runner
from bench.report import machine
from bench.setup import BATCH_SIZE, BEAM_SIZE, cores
from daemon.errors import RunnerCrashed
from daemon.pipeline.types import Turn
from daemon.protocol.events import STAGES, CheckpointSaved, PipelineEvent, Progress, StageDone
from daemon.schema.transcript import Transcript

HOURS = (1 / 6, 1.0, 3.0, 6.0)
MIB = 2**20
HOUR_SECONDS = 3600

# Word times by attention are computed while Whisper decodes, so the memory of `align` is that of `asr`.
MEMORY_STAGES = ("vad", "asr", "diarize", "write")
NEXT_STAGE = {"vad": "asr", "align": "diarize", "diarize": "write"}


@dataclass(frozen=True, slots=True)
class Measured:
    hours: float
    wall_seconds: float
    stage_seconds: dict[str, float]
    before_mib: float  # anonymous memory with models loaded
    peak_mib: float  # resident memory, including mapped pages of the recording
    anonymous_mib: dict[str, float]  # stage → peak
    wer: float
    der: float
    speakers: int


async def measure(hours: float, model: str, folder: Path) -> Measured:
    """Run one job in a new process."""
    audio = folder / "audio.f32"
    starts = write_loops(audio, hours * HOUR_SECONDS)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    async with open_runner(cores()) as runner:
        began = time.monotonic()
        with MemoryWatch(runner.pid, "vad") as watch:

            def on_event(event: PipelineEvent) -> None:
                if isinstance(event, StageDone):
                    watch.stage = NEXT_STAGE.get(event.stage, watch.stage)

            transcript = await runner.transcribe(audio, checkpoints, on_event, model=model, align="attention")
        wall_seconds = time.monotonic() - began
    segments = [Turn(s.start, s.end, s.speaker) for s in transcript.segments if s.speaker]
    spoken = [turn for start in starts for turn in shifted_turns(call().turns, start)]
    return Measured(
        hours=transcript.duration_seconds / HOUR_SECONDS,
        wall_seconds=wall_seconds,
        stage_seconds=transcript.timings_seconds,
        before_mib=watch.before.anonymous_bytes / MIB,
        peak_mib=watch.peak_bytes / MIB,
        anonymous_mib={stage: peak.anonymous_bytes / MIB for stage, peak in watch.peaks.items()},
        wer=word_error_rate([call().text] * len(starts), _text_by_loop(transcript, starts)),
        der=diarization_error_rate(spoken, segments, transcript.duration_seconds),
        speakers=len(transcript.speakers),
    )


def _text_by_loop(transcript: Transcript, starts: list[float]) -> list[str]:
    """Return the words recognised in each loop, assigned by time, so that errors in one loop cannot cancel out in
    another."""
    loops: list[list[str]] = [[] for _ in starts]
    for segment in transcript.segments:
        for word in segment.words:
            loops[max(0, bisect_right(starts, word.start) - 1)].append(word.word)
    return [" ".join(words) for words in loops]


def table(results: list[Measured]) -> Table:
    result = Table(box=SIMPLE_HEAD)
    columns = ("audio h", "wall s", "× real time", *STAGES, "peak MiB", *MEMORY_STAGES, "WER", "DER", "speakers")
    for name in columns:
        result.add_column(name, justify="right", no_wrap=True)
    for one in results:
        audio_seconds = one.hours * HOUR_SECONDS
        result.add_row(
            f"{one.hours:.2f}",
            f"{one.wall_seconds:.0f}",
            f"{one.wall_seconds / audio_seconds:.3f}",
            *(f"{one.stage_seconds.get(stage, 0.0) / audio_seconds:.3f}" for stage in STAGES),
            f"{one.peak_mib:.0f}",
            *(f"{one.anonymous_mib.get(stage, 0.0) - one.before_mib:+.0f}" for stage in MEMORY_STAGES),
            *(f"{one.wer:.3f}", f"{one.der:.3f}", str(one.speakers)),
        )
    for first, one in pairwise(results):
        hours = one.hours - first.hours
        grown = [
            (one.anonymous_mib.get(stage, 0.0) - first.anonymous_mib.get(stage, 0.0)) / hours for stage in MEMORY_STAGES
        ]
        result.add_row(
            f"to {one.hours:.2f}",
            *("MiB", "per hour", *("" for _ in STAGES)),
            f"{(one.peak_mib - first.peak_mib) / hours:+.0f}",
            *(f"{mib:+.0f}" for mib in grown),
            style="dim",
        )
    return result


# --- a kill -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resumed:
    """Results of an interrupted job. Except for the seconds, values count chunks of up to 30 s, Whisper's unit of
    decoding."""

    hours: float
    killed_at: float  # share of recognition
    total: int
    decoded_before: int
    kept: int  # chunks that the second delivery did not decode again
    largest_group: int
    first_seconds: float
    second_seconds: float

    @property
    def repeated(self) -> int:
        return self.decoded_before - self.kept


async def kill_and_resume(hours: float, kill_at: float, model: str, folder: Path) -> Resumed:
    audio, checkpoints = folder / "audio.f32", folder / "checkpoints"
    write_loops(audio, hours * HOUR_SECONDS)
    checkpoints.mkdir()
    reached = 0.0
    decoded: list[str] = []  # groups in the second delivery

    async with open_runner(cores()) as runner:
        pid = runner.pid

        def kill(event: PipelineEvent) -> None:
            nonlocal reached
            if isinstance(event, Progress) and event.stage == "asr" and reached < kill_at:
                reached = event.fraction
                if reached >= kill_at:
                    os.kill(pid, signal.SIGKILL)

        def note(event: PipelineEvent) -> None:
            if isinstance(event, CheckpointSaved):
                decoded.append(event.name)

        began = time.monotonic()
        try:
            await runner.transcribe(audio, checkpoints, kill, model=model, align="off", diarize=False)
        except RunnerCrashed:
            first_seconds = time.monotonic() - began
        else:
            raise RuntimeError("the job ended before it could be killed; use a longer recording")
        began = time.monotonic()
        transcript = await runner.transcribe(audio, checkpoints, note, model=model, align="off", diarize=False)
        second_seconds = time.monotonic() - began
    groups = {path.name: len(json.loads(path.read_text())["chunks"]) for path in checkpoints.glob("asr-*.json")}
    total = sum(groups.values())
    return Resumed(
        hours=transcript.duration_seconds / HOUR_SECONDS,
        killed_at=reached,
        total=total,
        decoded_before=round(reached * total),
        kept=sum(size for name, size in groups.items() if name not in decoded),
        largest_group=max(groups.values()),
        first_seconds=first_seconds,
        second_seconds=second_seconds,
    )


def describe(resumed: Resumed) -> str:
    share = resumed.kept / resumed.total
    return (
        f"{resumed.hours:.2f} h, {resumed.total} chunks; killed with {resumed.killed_at:.1%} decoded "
        f"({resumed.decoded_before} chunks) after {resumed.first_seconds:.0f} s\n"
        f"second delivery, {resumed.second_seconds:.0f} s: the first {share:.1%} ({resumed.kept} chunks) came from "
        f"checkpoints; {resumed.repeated} chunks decoded twice ({resumed.repeated / resumed.total:.1%}), "
        f"a group has up to {resumed.largest_group}"
    )


# --- command line -------------------------------------------------------------------------------------------------


def main() -> int:
    arguments = _arguments()
    console = Console(highlight=False, width=160)
    console.print(f"{machine(cores())}\nWhisper {arguments.model}, int8, beam {BEAM_SIZE}, batch {BATCH_SIZE}")
    found: list[Any] = []
    is_good = True
    for hours in arguments.hours:
        with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
            if arguments.kill_at is None:
                found.append(asyncio.run(measure(hours, arguments.model, Path(name))))
                console.print(table(found))
            else:
                found.append(asyncio.run(kill_and_resume(hours, arguments.kill_at, arguments.model, Path(name))))
                console.print(describe(found[-1]))
                is_good = is_good and found[-1].repeated <= found[-1].largest_group
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    return 0 if is_good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, nargs="+", default=HOURS, help="lengths of the recordings in hours")
    parser.add_argument("--model", choices=("tiny.en", "base"), default="tiny.en")
    parser.add_argument(
        "--kill-at", type=_share, help="kill the process once this share is decoded, and resume the job"
    )
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    return parser.parse_args()


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return share


if __name__ == "__main__":
    sys.exit(main())
