"""`python -m bench.accuracy_table`: compare the accuracy of transcripts with whisperx, on the same recordings and
models.

Both peers run in one measurement: transcriptd's runner process, and whisperx's Python API in a separate process. The
exit status is 1 if transcriptd is worse than whisperx by more than TOLERANCES. `--write` puts the tables into
docs/accuracy.md.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from bench import corpus
from bench.corpus import Recording
from bench.libraries import LibraryTranscript, transcribe_whisperx
from bench.real_runner import RunnerPeer, open_runner
from bench.report import machine, markdown, write_measured
from bench.scores import Hypothesis, Scores, turns_error
from bench.setup import BATCH_SIZE, BEAM_SIZE, PACKAGED, Setup, cores, find_model

MODELS = tuple(PACKAGED)
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
COMMAND = "make accuracy ARGS=--write"

# By how much it may be worse than whisperx. One word of the call is 0.012, and a chunk that Whisper is unsure of is
# decoded by random sampling; the reference itself is up to 0.25 s off at the starts of sentences.
TOLERANCES = Scores(wer=0.02, speaker_wer=0.02, der=0.02, starts_off_seconds=0.05)

HEADINGS = ("WER", "cpWER", "DER", "Start error, s")  # from the fields of Scores


@dataclass(frozen=True, slots=True)
class Row:
    model: str
    recording: str
    daemon: Scores
    whisperx: Scores
    whisperx_turns_der: float  # of the diarization alone

    def cells(self) -> list[str]:
        scores = map(_pair, astuple(self.daemon), astuple(self.whisperx))
        return [self.model, self.recording, *scores, f"{self.whisperx_turns_der:.3f}"]

    def worse(self) -> list[str]:
        """Yield the measures in which transcriptd is worse than tolerated."""
        compared = zip(HEADINGS, *map(astuple, (self.daemon, self.whisperx, TOLERANCES)), strict=True)
        return [
            f"{self.model}, {self.recording}: {heading} {ours:.3f}, whisperx {theirs:.3f}"
            for heading, ours, theirs, tolerance in compared
            if ours > theirs + tolerance
        ]


@dataclass(frozen=True, slots=True)
class SilentRow:
    model: str
    recording: str
    daemon: int  # number of words
    whisperx: int

    def cells(self) -> list[str]:
        return [self.model, self.recording, _pair(self.daemon, self.whisperx, decimals=0)]

    def worse(self) -> list[str]:
        if self.daemon <= self.whisperx:
            return []
        return [f"{self.model}, {self.recording}: {self.daemon} hallucinated words, whisperx {self.whisperx}"]


def _pair(ours: float, theirs: float, decimals: int = 3) -> str:
    """Format both values, the better one bold if they differ as printed."""
    texts = [f"{value:.{decimals}f}" for value in (ours, theirs)]
    if texts[0] != texts[1]:
        better = 0 if ours < theirs else 1
        texts[better] = f"**{texts[better]}**"
    return " · ".join(texts)


class Peers:
    """Both peers, run on one recording after the other; each row is printed when it is measured."""

    def __init__(self, runner: RunnerPeer, api: ProcessPoolExecutor, console: Console) -> None:
        self._runner = runner
        self._api = api
        self._console = console

    async def compare(self, recording: Recording, model: str) -> Row:
        hypothesis = await self._daemon(recording, model)
        other = self._whisperx(recording, model)
        row = Row(
            model,
            recording.name,
            Scores.of(recording, hypothesis),
            Scores.of(recording, Hypothesis.of_whisperx(other.segments)),
            turns_error(recording, other.turns),
        )
        self._console.print(" | ".join(row.cells()), soft_wrap=True)
        return row

    async def compare_silent(self, recording: Recording, model: str) -> SilentRow:
        hypothesis = await self._daemon(recording, model)
        other = Hypothesis.of_whisperx(self._whisperx(recording, model).segments)
        row = SilentRow(model, recording.name, hypothesis.made_up, other.made_up)
        self._console.print(" | ".join(row.cells()), soft_wrap=True)
        return row

    async def _daemon(self, recording: Recording, model: str) -> Hypothesis:
        with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
            audio = Path(name) / "audio.f32"
            recording.audio.astype("<f4").tofile(audio)
            checkpoints = Path(name) / "checkpoints"
            checkpoints.mkdir()
            transcript = await self._runner.transcribe(audio, checkpoints, model=model, align="attention")
        return Hypothesis.of_daemon(transcript)

    def _whisperx(self, recording: Recording, model: str) -> LibraryTranscript:
        return self._api.submit(transcribe_whisperx, recording.audio, Setup(find_model(model))).result()


async def measure(arguments: argparse.Namespace, console: Console) -> tuple[list[Row], list[SilentRow]]:
    def asked_for(recordings: list[Recording]) -> list[Recording]:
        return [each for each in recordings if any(part in each.name for part in arguments.only)]

    spoken = asked_for([*corpus.conditions(), corpus.long_call()])
    silent = asked_for(corpus.without_speech())
    rows: list[Row] = []
    silent_rows: list[SilentRow] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as api:
        async with open_runner(cores()) as runner:
            peers = Peers(runner, api, console)
            for model in arguments.models:
                rows += [await peers.compare(recording, model) for recording in spoken]
                silent_rows += [await peers.compare_silent(recording, model) for recording in silent]
    return rows, silent_rows


def report(rows: list[Row], silent_rows: list[SilentRow]) -> str:
    """Format both tables as Markdown."""
    spoken = [["Model", "Recording", *HEADINGS, "DER of whisperx's diarization"], *(row.cells() for row in rows)]
    silent = [["Model", "Recording", "Hallucinated words"], *(row.cells() for row in silent_rows)]
    head = machine(cores()).replace("\n", "; ")
    return (
        f"{head}. Whisper int8, beam {BEAM_SIZE}, batch {BATCH_SIZE}.\n\n"
        f"In each cell: transcriptd · whisperx; the better value is bold.\n\n{markdown(spoken)}\n{markdown(silent)}"
    )


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=True, highlight=False)
    rows, silent_rows = asyncio.run(measure(arguments, console))
    measured = report(rows, silent_rows)
    print(measured)
    if arguments.write:
        write_measured(PAGE, COMMAND, measured)
    every: list[Row | SilentRow] = [*rows, *silent_rows]
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in every], indent=2) + "\n")
    worse = [line for row in every for line in row.worse()]
    for line in worse:
        console.print(f"worse than whisperx: {line}", style="red")
    return 1 if worse else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PART", help="only recordings whose name contains one of these"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/accuracy.md")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    arguments = parser.parse_args()
    if arguments.write and (arguments.only != [""] or arguments.models != MODELS):
        parser.error("--write requires all recordings and models, because the page covers all of them")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
