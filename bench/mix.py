"""`python -m bench.mix`: how much audio a second of many short files, through the real queue, beside named peers.

Every peer gets the same files, weights, beam, batch size and threads, one peer at a time, in turns. Nothing is asserted:
it measures and prints. docs/performance.md says what the rows mean.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.corpus import Recording, long_call, short_clips
from bench.daemon_jobs import PIPELINE_STAGES, DaemonPeer, open_daemon
from bench.memory import status_bytes
from bench.peers import BATCH_SIZE, BEAM_SIZE, transcribe_api
from bench.report import machine
from bench.scores import Heard, turns_error
from daemon.pipeline.pieces import Turn
from tests.measures import word_error_rate

MODEL = "base"


@dataclass(frozen=True, slots=True)
class Row:
    """One run of one peer over a set of recordings. `stages`: seconds in each, where the peer tells."""

    peer: str
    audio_seconds: float
    wall_seconds: float
    wer: float
    der: float
    peak_bytes: int
    stages: dict[str, float]

    @property
    def speed(self) -> float:
        return self.audio_seconds / self.wall_seconds


def score(recordings: Sequence[Recording], heard: Sequence[Heard]) -> tuple[float, float]:
    """WER over all words, and DER over all time, of the segments."""
    texts = [" ".join(segment.text for segment in each.segments) for each in heard]
    errors = [
        turns_error(recording, [Turn(s.start, s.end, s.speaker) for s in each.segments if s.speaker])
        for recording, each in zip(recordings, heard, strict=True)
    ]
    spoken = [sum(turn.end - turn.start for turn in recording.turns) for recording in recordings]
    return word_error_rate([recording.text for recording in recordings], texts), float(
        np.average(errors, weights=spoken)
    )


def run_api(recordings: Sequence[Recording], threads: int) -> Row:
    """whisperx's Python API, models resident, file after file. In a process of its own; what it loads stays."""
    began = time.monotonic()
    found = [transcribe_api(recording.audio.copy(), MODEL, threads) for recording in recordings]
    wall = time.monotonic() - began
    stages: dict[str, float] = {}
    for each in found:
        for stage, seconds in each.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    wer, der = score(recordings, [Heard.of_whisperx(each) for each in found])
    return Row(
        "whisperx API, resident", _length(recordings), wall, wer, der, status_bytes(os.getpid(), "VmHWM"), stages
    )


def run_loading(recordings: Sequence[Recording], threads: int) -> Row:
    """What most deployments do: a process for every file, which loads the models first."""
    began = time.monotonic()
    rows = []
    for recording in recordings:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            rows.append(process.submit(run_api, [recording], threads).result())
    wall = time.monotonic() - began
    weights = [row.audio_seconds for row in rows]
    wer, der = (float(np.average([getattr(row, name) for row in rows], weights=weights)) for name in ("wer", "der"))
    return Row("whisperx API, loading for each file", sum(weights), wall, wer, der, max(r.peak_bytes for r in rows), {})


def run_daemon(daemon: DaemonPeer, recordings: Sequence[Recording], name: str) -> Row:
    """All files published at once; until the last is told as finished."""
    seconds, transcripts, timings, peak = daemon.run_recordings(recordings)
    wer, der = score(recordings, [Heard.of_daemon(each) for each in transcripts])
    stages = {stage: sum(each.get(stage, 0.0) for each in timings) for stage in PIPELINE_STAGES}
    return Row(name, _length(recordings), seconds, wer, der, peak, stages)


def _length(recordings: Sequence[Recording]) -> float:
    return sum(recording.duration for recording in recordings)


def table(rows: Sequence[Row]) -> Table:
    """A line for each peer: medians, with the least and the most of its speed."""
    shown = Table(box=SIMPLE_HEAD)
    for heading in ("Peer", "Audio s / s", "min–max", "Ratio", "WER", "DER", "Peak MiB", "Shares of the stages"):
        shown.add_column(heading, justify="left" if heading in ("Peer", "Shares of the stages") else "right")
    by_peer = {peer: [row for row in rows if row.peer == peer] for peer in dict.fromkeys(row.peer for row in rows)}
    first = statistics.median(row.speed for row in next(iter(by_peer.values())))
    for peer, runs in by_peer.items():
        speeds = [row.speed for row in runs]
        total = sum(sum(row.stages.values()) for row in runs) or 1.0
        shares = {stage: sum(row.stages[stage] for row in runs) / total for stage in runs[0].stages}
        shown.add_row(
            peer,
            f"{statistics.median(speeds):.2f}",
            f"{min(speeds):.2f}–{max(speeds):.2f}",
            f"{statistics.median(speeds) / first:.2f}",
            f"{statistics.median(row.wer for row in runs):.3f}",
            f"{statistics.median(row.der for row in runs):.3f}",
            f"{max(row.peak_bytes for row in runs) / 2**20:.0f}",
            ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items() if share >= 0.005),
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="short files, 3.7 to 30 s")
    parser.add_argument("--long", type=int, default=1, help="files of five minutes among them")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--loading", type=int, default=3, help="files for the peer that loads for each; 0 leaves it out"
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[2, 8], help="jobs that the daemon holds at once")
    parser.add_argument("--short-context", action="store_true", help="measure that setting too")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=150)
    threads = len(os.sched_getaffinity(0))
    recordings = [*short_clips(arguments.clips), *[long_call() for _ in range(arguments.long)]]
    np.random.default_rng(0).shuffle(recordings)
    daemons = {f"transcriptd, {it} jobs in hand": {"jobs_in_flight": str(it)} for it in arguments.in_flight}
    if arguments.short_context:
        most = str(max(arguments.in_flight))
        daemons["  and short context"] = {"jobs_in_flight": most, "short_context_models": MODEL}
    rows: list[Row] = []

    def measure(peer: Callable[[], Row]) -> None:
        rows.append(peer())
        console.print(f"  {rows[-1].peer}: {rows[-1].speed:.2f}", style="dim")

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as api:
        api.submit(run_api, recordings[:1], threads).result()  # loads the models
        for _ in range(arguments.repeat):
            measure(lambda: api.submit(run_api, recordings, threads).result())
            for name, settings in daemons.items():
                with open_daemon(threads, **settings) as daemon:
                    daemon.run_job()
                    measure(lambda: run_daemon(daemon, recordings, name))  # noqa: B023  # called at once
    if arguments.loading:
        measure(lambda: run_loading(recordings[: arguments.loading], threads))
    console.print(f"{machine(threads)}\nWhisper {MODEL}, int8, beam {BEAM_SIZE}, batch {BATCH_SIZE}, {threads} threads")
    console.print(f"{len(recordings)} files, {_length(recordings):.0f} s of audio, medians of {arguments.repeat}")
    console.print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([{**asdict(row), "speed": row.speed} for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
