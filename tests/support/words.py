"""Invariants of word timing that hold for every passage, and passages generated to break them."""

import math
from collections.abc import Sequence

from hypothesis import strategies as st

from daemon.pipeline.alignment.placement import MAX_WORD_SECONDS, MIN_WORD_SECONDS
from daemon.pipeline.alignment.words import AlignedToken
from daemon.pipeline.types import Chunk, TimedWord

# Digits, symbols, opening and closing marks, combining marks, and scripts without spaces.
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

# Times an aligner may return: none, not a number, outside the chunk, before the previous word.
TIMES = st.none() | st.floats(-5, 45) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e9])
SCORES = st.none() | st.floats(-0.5, 1.5) | st.just(math.nan)
ALIGNED_TOKENS = st.lists(
    st.builds(AlignedToken, text=TEXTS.map("".join), start=TIMES, end=TIMES, score=SCORES), min_size=1, max_size=12
)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """Generate chunks of up to 40 s with some regions of speech; regions in basic mode may exceed the chunk or miss
    it."""
    borders = sorted(draw(st.lists(st.floats(0, 40), min_size=2, max_size=10, unique=True)))
    regions = tuple(zip(borders[0::2], borders[1::2], strict=False))
    if draw(st.booleans()):
        return Chunk(regions[0][0], regions[-1][1], regions)
    start, end = sorted((draw(st.floats(0, 40)), draw(st.floats(0, 40))))
    return Chunk(start, end, regions)


def assert_settled(words: Sequence[TimedWord], text: str, chunk: Chunk) -> None:
    """Assert that no word is lost, and that each lies inside one region of speech, in order, and is long enough to be
    heard but no longer than the longest possible word."""
    assert "".join(word.text for word in words) == text
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    regions = chunk.part(chunk.start, chunk.end).regions or ((chunk.start, chunk.end),)
    room = sum(int((end - start) / MIN_WORD_SECONDS) for start, end in regions)
    for word in words:
        assert word.end - word.start <= MAX_WORD_SECONDS + 1e-9
        assert room < len(words) or word.end - word.start >= MIN_WORD_SECONDS - 1e-9
        assert any(start <= word.start and word.end <= end + 1e-9 for start, end in regions)
        assert word.score is None or 0 <= word.score <= 1
