"""`python -m bench.accuracy_table`: compare the accuracy of transcripts with whisperx and faster-whisper, on the same
recordings and models.

All peers run in one measurement. The exit status is 1 if transcriptd is worse than another peer by more than a
measure's tolerance. `--write` puts the tables into docs/accuracy.md.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from bench.accuracy import PEERS, TRANSCRIPTD, Measurement, Peer, measure
from bench.accuracy_corpora import CALL, CONVERSATIONS, CORPORA, PAUSES, SILENCE, cases
from bench.report import machine, markdown, write_measured
from bench.setup import BATCH_SIZE, BEAM_SIZE, PACKAGED, cores
from bench.tally import SpeakerTally, Tally, WordTally, total

MODEL = "base"
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
COMMAND = "make accuracy ARGS=--write"
CONVERSATIONS_COMMAND = 'make accuracy ARGS="--write --diarization-data FOLDER"'
ALL = "all"
NO_VALUE = "–"


@dataclass(frozen=True, slots=True)
class Measure:
    """A column. Smaller values are better."""

    heading: str
    value: Callable[[Tally], float | None]
    tolerance: float  # by how much transcriptd may be worse than another peer without failing the command
    text: Callable[[Tally, float], str]
    prefix: str = ""  # of the name outside the table

    @property
    def name(self) -> str:
        return self.prefix + self.heading


def _decimals(count: int) -> Callable[[Tally, float], str]:
    return lambda _, value: f"{value:.{count}f}"


def _of_words(value: Callable[[WordTally], float | None]) -> Callable[[Tally], float | None]:
    return lambda tally: None if tally.words is None else value(tally.words)


def _of_speakers(value: Callable[[SpeakerTally], float | None]) -> Callable[[Tally], float | None]:
    return lambda tally: None if tally.speakers is None else value(tally.speakers)


def _der(tally: Tally, value: float) -> str:
    alone = tally.speakers and tally.speakers.diarization_der
    return f"{value:.3f}" if alone is None else f"{value:.3f} ({alone:.3f})"


def _right_counts(tally: Tally, _: float) -> str:
    assert tally.speakers is not None
    return f"{tally.speakers.right_counts}/{tally.speakers.recordings}"


# One word of the call is 0.012, and a chunk that Whisper is unsure of is decoded by random sampling. The reference times
# of the call are up to 0.25 s off.
MEASURES = (
    Measure("WER", _of_words(lambda words: words.error_rate), 0.02, _decimals(3)),
    Measure("Lost", _of_words(lambda words: words.lost), 1, _decimals(0)),
    Measure("Invented", _of_words(lambda words: words.invented), 1, _decimals(0)),
    Measure("Start error, s: median", _of_words(lambda words: words.start_error(50)), 0.05, _decimals(2)),
    Measure("95 %", _of_words(lambda words: words.start_error(95)), 0.1, _decimals(2), "Start error, s: "),
    Measure("max.", _of_words(lambda words: words.start_error(100)), 0.25, _decimals(2), "Start error, s: "),
    Measure("DER", _of_speakers(lambda speakers: speakers.der), 0.02, _der),
    Measure("cpWER", _of_speakers(lambda speakers: speakers.word_error_rate), 0.02, _decimals(3)),
    Measure("Counts", _of_speakers(lambda speakers: -speakers.right_counts), 0, _right_counts),
)


@dataclass(frozen=True, slots=True)
class Row:
    """All peers' errors under one condition."""

    corpus: str
    condition: str
    tallies: dict[Peer, Tally]

    def cells(self, measures: Sequence[Measure]) -> list[list[str]]:
        """Return a line for each peer; the best value of a measure is bold if the peers differ."""
        columns = [self._column(measure) for measure in measures]
        return [
            [self.condition if index == 0 else "", peer.title, *(column[peer] for column in columns)]
            for index, peer in enumerate(self.tallies)
        ]

    def _column(self, measure: Measure) -> dict[Peer, str]:
        values = {peer: measure.value(tally) for peer, tally in self.tallies.items()}
        texts = {
            peer: NO_VALUE if value is None else measure.text(self.tallies[peer], value)
            for peer, value in values.items()
        }
        known = [value for value in values.values() if value is not None]
        shown = {texts[peer].split()[0] for peer, value in values.items() if value is not None}
        if len(shown) < 2:
            return texts
        best = texts[next(peer for peer, value in values.items() if value == min(known))].split()[0]
        return {peer: _bold(text) if text.split()[0] == best else text for peer, text in texts.items()}

    def worse(self, tolerated: bool) -> list[str]:
        """Describe the measures in which another peer's printed value is better; with `tolerated` False, by more than
        the tolerance."""
        ours = self.tallies.get(TRANSCRIPTD)
        if ours is None:
            return []
        return [
            f"{self.corpus}, {self.condition}: {column.name} {our_text}, {peer.title} {their_text}"
            for column in MEASURES
            for peer, theirs in self.tallies.items()
            if (our_value := column.value(ours)) is not None
            and (their_value := column.value(theirs)) is not None
            and our_value > their_value + (0 if tolerated else column.tolerance)
            and (our_text := _first(column.text(ours, our_value)))
            != (their_text := _first(column.text(theirs, their_value)))
        ]


def _first(text: str) -> str:
    return text.split()[0]


def _bold(text: str) -> str:
    value, *rest = text.split(maxsplit=1)
    return " ".join([f"**{value}**", *rest])


def rows_of(corpus: str, measured: Sequence[Measurement]) -> list[Row]:
    """Add up the measurements of a corpus by condition, with a last row for all if there is more than one."""
    own = [each for each in measured if each.case.corpus == corpus]
    conditions = list(dict.fromkeys(condition for each in own for condition in each.case.conditions))
    rows = [_row(corpus, name, [each for each in own if name in each.case.conditions]) for name in conditions]
    return [*rows, _row(corpus, ALL, own)] if len(rows) > 1 and corpus in (CALL, CONVERSATIONS) else rows


def _row(corpus: str, condition: str, measured: Sequence[Measurement]) -> Row:
    peers = [peer for peer in PEERS if any(each.peer == peer for each in measured)]
    return Row(corpus, condition, {peer: total(each.tally for each in measured if each.peer == peer) for peer in peers})


def table(rows: Sequence[Row]) -> str:
    """Format rows of one corpus as Markdown, without columns in which no peer has a value."""
    tallies = [tally for row in rows for tally in row.tallies.values()]
    measures = [measure for measure in MEASURES if any(measure.value(tally) is not None for tally in tallies)]
    headings = ["Condition", "Program", *(measure.heading for measure in measures)]
    return markdown([headings, *(line for row in rows for line in row.cells(measures))])


def silence_table(rows: Sequence[Row]) -> str:
    """Format the invented words in recordings without speech: one line for each sound."""
    peers = list(rows[0].tallies)
    invented = next(measure for measure in MEASURES if measure.heading == "Invented")
    lines = [[row.condition, *(cells[-1] for cells in row.cells([invented]))] for row in rows]
    return markdown([["Words invented in", *(peer.title for peer in peers)], *lines], words=(0,))


def report(measured: Sequence[Measurement], corpora: Sequence[str], model: str) -> str:
    """Format the tables of the corpora, and where transcriptd is worse."""
    head = machine(cores()).replace("\n", "; ")
    parts = [f"{head}. Whisper {model}, int8, beam {BEAM_SIZE}, batch {BATCH_SIZE}.\n"]
    every: list[Row] = []
    for corpus in corpora:
        if rows := rows_of(corpus, measured):
            every += rows
            parts.append(silence_table(rows) if corpus == SILENCE else table(rows))
    worse = [line for row in every for line in row.worse(tolerated=True)]
    listed = "\n".join(f"- {line}" for line in worse) or "- nowhere"
    return "\n".join([*parts, f"transcriptd is worse than another program here:\n\n{listed}\n"])


def main() -> int:
    arguments = _arguments()
    console = Console(stderr=True, highlight=False)
    try:
        every = cases(arguments.diarization_data)
    except ValueError as error:
        console.print(f"--diarization-data: {error}", style="red")
        return 2
    chosen = [case for case in every if any(part in case.name for part in arguments.only)]

    def show(found: Measurement) -> None:
        (cells,) = _row(found.case.corpus, found.case.name, [found]).cells(MEASURES)
        console.print(" | ".join(cells), soft_wrap=True)

    measured = asyncio.run(measure(chosen, arguments.model, show, arguments.keep))
    print(report(measured, CORPORA, arguments.model))
    if arguments.write:
        write_measured(PAGE, COMMAND, report(measured, (CALL, PAUSES, SILENCE), arguments.model))
        if arguments.diarization_data:
            write_measured(PAGE, CONVERSATIONS_COMMAND, report(measured, (CONVERSATIONS,), arguments.model))
    if arguments.json:
        arguments.json.write_text(json.dumps([_values(each) for each in measured], indent=2) + "\n")
    worse = [line for corpus in CORPORA for row in rows_of(corpus, measured) for line in row.worse(tolerated=False)]
    for line in worse:
        console.print(f"worse than tolerated: {line}", style="red")
    return 1 if worse else 0


def _values(measured: Measurement) -> dict[str, object]:
    return {"recording": measured.case.name, "program": measured.peer.title, **asdict(measured.tally)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(PACKAGED), default=MODEL)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="PART",
        help=f"only recordings whose name contains one of these. A name starts with its corpus: {', '.join(CORPORA)}",
    )
    parser.add_argument(
        "--diarization-data",
        type=Path,
        metavar="FOLDER",
        help="also measure the speakers of these recordings: FLAC or WAV files, each with an RTTM file",
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/accuracy.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to this file")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the recordings and transcripts here")
    arguments = parser.parse_args()
    if arguments.write and (arguments.only != [""] or arguments.model != MODEL):
        parser.error(f"--write requires all recordings and the model {MODEL}, because the page covers all of them")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
