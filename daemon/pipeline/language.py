"""Which language is spoken: a vote over the whole recording, and each chunk's own say where languages are mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from daemon.pipeline.pieces import Chunk

# Chunks that vote. They are encoded once: recognition takes their encodings over, so that a vote costs one step of the
# decoder. More would only cost memory: eight of two hours tell the language that most of it is in.
MAX_VOTERS = 8
MAX_REPORTED = 5  # languages in the transcript

# What it takes for a chunk of a mixed recording to be in another language than the recording. On short or noisy speech
# Whisper is wrong about the language far more often than people change it.
MIN_SWITCH_PROBABILITY = 0.7
MIN_SWITCH_SECONDS = 2.0
MIN_PAUSE_SECONDS = 0.7  # where it may change

Probabilities = dict[str, float]  # Whisper's code → probability


@dataclass(frozen=True, slots=True)
class Detection:
    """The language of a recording. One that the job named has no probability."""

    language: str
    probability: float | None = None
    probabilities: Probabilities = field(default_factory=dict)  # of the likeliest, the first first


@dataclass(frozen=True, slots=True)
class Voter:
    """A chunk, and the speech in seconds that it stands for."""

    chunk: Chunk
    weight: float


def voters(chunks: Sequence[Chunk], limit: int = MAX_VOTERS) -> list[Voter]:
    """At most `limit` chunks spread over the recording: of each of as many equal shares of the speech, the fullest."""
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
    """The likeliest language by the mean of the chunks' probabilities, each with its weight in seconds of speech."""
    total = sum(weight for _, weight in ballots)
    sums: Probabilities = {}
    for ballot, weight in ballots:
        for code, probability in ballot.items():
            sums[code] = sums.get(code, 0.0) + probability * weight / total
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return Detection(*ranked[0], dict(ranked[:MAX_REPORTED]))


def chunk_language(ballot: Probabilities, chunk: Chunk, usual: str) -> str:
    """The language to decode a chunk of a mixed recording in: its own where that is convincing, else the recording's."""
    best = max(ballot, key=ballot.__getitem__)
    convincing = ballot[best] >= MIN_SWITCH_PROBABILITY and chunk.speech_seconds >= MIN_SWITCH_SECONDS
    return best if convincing else usual


def cut_at_pauses(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Chunks of a mixed recording: people change the language at a pause, and Whisper decodes a chunk in one language.

    Each has enough speech to tell its language by, or is all there was in a chunk.
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
