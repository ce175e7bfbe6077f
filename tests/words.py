"""What holds for the words of every passage, and the passages that try to break it."""

import math
from collections.abc import Sequence

from hypothesis import strategies as st

from daemon.pipeline.pieces import Chunk, TimedWord
from daemon.pipeline.words import MAX_WORD_SECONDS, Piece

# Numbers, signs, marks that open and close, combining marks, and scripts without spaces.
TEXTS = st.lists(
    st.sampled_from(
        [
            *(" 1984", " 3.5", " 5 %", " €20", " C++", " @home", " #1", "-mail", " don't", " I.", "…", " …", " “", "”"),
            *(
                ",",
                "?",
                "!",
                " (",
                ")",
                " ¿",
                " -",
                "'",
                " ",
                "  ",
                "\n",
                "\t",
                "a",
                "é",
                "e\u0301",
                "你",
                "好",
                "。",
                "「",
                "」",
            ),
            *(" ١٢٣", "👍🏽", "\u200d", "\x00"),
        ]
    ),
    min_size=1,
    max_size=12,
)

# What an aligner may say of a time: nothing, no number, beyond the chunk, before the word before.
TIMES = st.none() | st.floats(-5, 45) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e9])
SCORES = st.none() | st.floats(-0.5, 1.5) | st.just(math.nan)
PIECES = st.lists(
    st.builds(Piece, text=TEXTS.map("".join), start=TIMES, end=TIMES, score=SCORES), min_size=1, max_size=12
)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """Up to 40 s with some regions of speech. Those of a passage from basic mode reach beyond it, or miss it."""
    borders = sorted(draw(st.lists(st.floats(0, 40), min_size=2, max_size=10, unique=True)))
    regions = tuple(zip(borders[0::2], borders[1::2], strict=False))
    if draw(st.booleans()):
        return Chunk(regions[0][0], regions[-1][1], regions)
    start, end = sorted((draw(st.floats(0, 40)), draw(st.floats(0, 40))))
    return Chunk(start, end, regions)


def assert_settled(words: Sequence[TimedWord], text: str, chunk: Chunk) -> None:
    """No word is lost; all lie inside the chunk, one after the other; none is longer than a word can be, or stretched
    into a pause that the speech detector found."""
    assert "".join(word.text for word in words) == text
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(chunk.start <= time <= chunk.end for time in times)
    for word in words:
        assert word.end - word.start <= MAX_WORD_SECONDS + 1e-9
        overlaps = [min(word.end, end) - max(word.start, start) for start, end in chunk.regions]
        assert max(overlaps) <= 0 or any(start <= word.start and word.end <= end for start, end in chunk.regions)
        assert word.score is None or 0 <= word.score <= 1
