"""`python -m bench.accuracy_table`: compare the accuracy of transcripts with whisperx and faster-whisper, on the same
recordings and models.

All peers run in one measurement. The exit status is 1 if transcriptd is worse than another peer by more than a
measure's tolerance. `--write` puts the tables into docs/accuracy.md.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.accuracy import Measurement, measure
from bench.accuracy_corpora import CALL, CONVERSATIONS, CORPORA, PAUSES, SILENCE, cases
from bench.accuracy_rows import MEASURES, Row, row_of, rows_of
from bench.report import machine, markdown, write_measured
from bench.setup import BATCH_SIZE, BEAM_SIZE, PACKAGED, cores

MODEL = "base"
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
COMMAND = "make accuracy ARGS=--write"
CONVERSATIONS_COMMAND = 'make accuracy ARGS="--write --diarization-data FOLDER"'


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
        (cells,) = row_of(found.case.corpus, found.case.name, [found]).cells(MEASURES)
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
