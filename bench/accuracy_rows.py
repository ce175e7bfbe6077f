"""The measures of `make accuracy`, and the programs' errors compared under each condition."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.accuracy import PEERS, TRANSCRIPTD, Measurement, Peer
from bench.accuracy_corpora import CALL, CONVERSATIONS
from bench.tally import SpeakerTally, Tally, WordTally, total

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
    rows = [
        row_of(corpus, condition, [each for each in own if condition in each.case.conditions])
        for condition in dict.fromkeys(_conditions(own))
    ]
    return [*rows, row_of(corpus, ALL, own)] if len(rows) > 1 and corpus in (CALL, CONVERSATIONS) else rows


def _conditions(measured: Sequence[Measurement]) -> Iterator[str]:
    """Yield the first conditions of all cases, then the second ones, and so on."""
    for position in range(max((len(each.case.conditions) for each in measured), default=0)):
        for each in measured:
            yield from each.case.conditions[position : position + 1]


def row_of(corpus: str, condition: str, measured: Sequence[Measurement]) -> Row:
    peers = [peer for peer in PEERS if any(each.peer == peer for each in measured)]
    return Row(corpus, condition, {peer: total(each.tally for each in measured if each.peer == peer) for peer in peers})
