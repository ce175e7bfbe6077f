"""Language detection: a vote over the whole recording, and a decision per chunk in multilingual recordings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from daemon.pipeline.types import Chunk

# Number of chunks that vote. Recognition reuses their encodings, so a vote costs only one decoder step. More would cost
# memory: eight chunks are enough to find the main language of a two-hour recording.
MAX_VOTERS = 8
MAX_REPORTED = 5  # languages in the transcript

# Requirements for a chunk to count as another language than the recording's. On short or noisy speech, Whisper
# misdetects the language far more often than speakers change it.
MIN_SWITCH_PROBABILITY = 0.7
MIN_SWITCH_SECONDS = 2.0
MIN_PAUSE_SECONDS = 0.7  # the language may change at a pause this long
MIN_SPLIT_SHARE = 0.2  # of the speech in another language, to report it

# Whisper mixes these up, because they sound alike: they are no second language of a recording.
_ALIKE = tuple(map(frozenset, (("no", "nn"), ("hr", "sr", "bs"), ("id", "ms"), ("hi", "ur"), ("zh", "yue"))))

Probabilities = dict[str, float]  # Whisper's code → probability


@dataclass(frozen=True, slots=True)
class Detection:
    """The language of a recording, without a probability if the job specified it."""

    language: str
    probability: float | None = None
    probabilities: Probabilities = field(default_factory=dict)  # of the most likely languages, in descending order
    split: dict[str, float] = field(default_factory=dict)  # shares of the speech, if much is in another language


@dataclass(frozen=True, slots=True)
class Voter:
    """A chunk, and the seconds of speech that it represents."""

    chunk: Chunk
    weight: float


def voters(chunks: Sequence[Chunk], limit: int = MAX_VOTERS) -> list[Voter]:
    """Choose at most `limit` chunks across the recording: of each equal share of speech, the chunk with most speech."""
    if len(chunks) <= limit:
        return [Voter(chunk, chunk.speech_seconds) for chunk in chunks]
    total = sum(chunk.speech_seconds for chunk in chunks)
    shares: list[list[Chunk]] = [[] for _ in range(limit)]
    before = 0.0
    for chunk in chunks:
        middle = before + chunk.speech_seconds / 2
        shares[min(int(middle / total * limit), limit - 1)].append(chunk)
        before += chunk.speech_seconds
    return [
        Voter(max(share, key=lambda chunk: chunk.speech_seconds), sum(chunk.speech_seconds for chunk in share))
        for share in shares
        if share
    ]


def vote(ballots: Sequence[tuple[Probabilities, float]]) -> Detection:
    """Return the most likely language by the mean of the chunks' probabilities, weighted by seconds of speech."""
    total = sum(weight for _, weight in ballots)
    sums: Probabilities = {}
    for ballot, weight in ballots:
        for code, probability in ballot.items():
            sums[code] = sums.get(code, 0.0) + probability * weight / total
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return Detection(*ranked[0], dict(ranked[:MAX_REPORTED]))


def among(allowed: Sequence[str], ballots: Sequence[Probabilities]) -> list[Probabilities]:
    """Return the ballots with only the allowed languages that the model knows, in shares of 1. Empty allows all."""
    if not allowed:
        return list(ballots)
    found = []
    for ballot in ballots:
        kept = {code: ballot[code] for code in allowed if code in ballot}
        total = sum(kept.values())
        found.append({code: value / total if total else 1 / len(kept) for code, value in kept.items()})
    return found


def certain_language(ballot: Probabilities, chunk: Chunk) -> str | None:
    """Return the chunk's language, or None if it is not certain enough."""
    best = max(ballot, key=ballot.__getitem__)
    certain = ballot[best] >= MIN_SWITCH_PROBABILITY and chunk.speech_seconds >= MIN_SWITCH_SECONDS
    return best if certain else None


def chunk_language(ballot: Probabilities, chunk: Chunk, usual: str) -> str:
    """Return the language to decode a chunk in: its own if that is certain enough, else the recording's."""
    return certain_language(ballot, chunk) or usual


def parts_of_uncertain(ballots: Sequence[Probabilities], polled: Sequence[Voter]) -> list[Voter]:
    """Return the parts between pauses of the chunks without a certain language: each part may have its own."""
    found: list[Voter] = []
    for ballot, voter in zip(ballots, polled, strict=True):
        parts = [] if certain_language(ballot, voter.chunk) else cut_at_pauses([voter.chunk])
        if len(parts) > 1:
            weight = voter.weight / voter.chunk.speech_seconds
            found += [Voter(part, part.speech_seconds * weight) for part in parts]
    return found[:MAX_VOTERS]


def split(ballots: Sequence[Probabilities], polled: Sequence[Voter], language: str, total: float) -> dict[str, float]:
    """Return the shares of the languages that are certain for much of the speech; empty if that is only `language`.

    `total` is the weight of all the speech.
    """
    shares: dict[str, float] = {}
    for ballot, voter in zip(ballots, polled, strict=True):
        if found := certain_language(ballot, voter.chunk):
            shares[found] = shares.get(found, 0.0) + voter.weight / total
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    large = {code: share for code, share in ranked if share >= MIN_SPLIT_SHARE}
    return large if any(not _sound_alike(code, language) for code in large) else {}


def _sound_alike(code: str, other: str) -> bool:
    return code == other or any({code, other} <= group for group in _ALIKE)


def cut_at_pauses(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Split the chunks of a multilingual recording at pauses.

    Speakers change the language at a pause, and Whisper decodes a chunk in one language. Each part has enough speech to
    detect its language, unless the whole chunk has less.
    """
    found: list[Chunk] = []
    for chunk in chunks:
        parts: list[list[tuple[float, float]]] = [[]]
        for start, end in chunk.regions:
            part = parts[-1]
            if part and start - part[-1][1] >= MIN_PAUSE_SECONDS and _seconds(part) >= MIN_SWITCH_SECONDS:
                parts.append([])
            parts[-1].append((start, end))
        if len(parts) > 1 and _seconds(parts[-1]) < MIN_SWITCH_SECONDS:
            short = parts.pop()
            parts[-1] += short
        found += [replace(chunk, start=part[0][0], end=part[-1][1], regions=tuple(part)) for part in parts]
    return found


def _seconds(regions: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in regions)
