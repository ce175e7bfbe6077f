"""Shortened pauses: the sound that Whisper hears, and the map of times back to the recording."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.speech.levels import chunk_audio
from daemon.pipeline.speech.shortened import (
    LONG_PAUSE_SECONDS,
    SHORTENED_SECONDS,
    STEPS_PER_SECOND,
    cut_at_long_pauses,
    shorten,
)
from daemon.pipeline.types import SAMPLE_RATE, Chunk, TimedWord

RATE = SAMPLE_RATE
SPANS = st.lists(st.tuples(st.floats(0.05, 40), st.floats(0.1, 12)), min_size=1, max_size=8)


def chunk_of(*regions: tuple[float, float]) -> Chunk:
    return Chunk(regions[0][0], regions[-1][1], regions)


def chunks_of(spans: list[tuple[float, float]]) -> Chunk:
    """Return a chunk of regions, each given as the pause before it and its length."""
    regions = []
    now = 0.0
    for pause, length in spans:
        regions.append((now + pause, now + pause + length))
        now = regions[-1][1]
    return chunk_of(*regions)


def pauses(chunk: Chunk) -> list[float]:
    return [after[0] - before[1] for before, after in pairwise(chunk.regions)]


@given(SPANS)
def test_only_long_pauses_are_shortened(spans: list[tuple[float, float]]) -> None:
    chunk = chunks_of(spans)
    shortened = shorten(chunk)
    for before, after in zip(pauses(chunk), pauses(shortened.chunk), strict=True):
        if before >= LONG_PAUSE_SECONDS:
            assert SHORTENED_SECONDS - 1e-9 <= after < SHORTENED_SECONDS + 1 / STEPS_PER_SECOND + 1e-9
        else:
            assert after == pytest.approx(before)
    assert [b - a for a, b in shortened.chunk.regions] == pytest.approx([b - a for a, b in chunk.regions])
    if all(pause < LONG_PAUSE_SECONDS for pause in pauses(chunk)):
        assert shortened.chunk is chunk


@given(SPANS)
def test_times_map_back_to_exactly_the_same(spans: list[tuple[float, float]]) -> None:
    chunk = chunks_of(spans)
    shortened = shorten(chunk)
    words = [TimedWord("word", start, end, None) for start, end in shortened.chunk.regions]
    assert [(word.start, word.end) for word in shortened.restore(words)] == list(chunk.regions)
    middles = [TimedWord("word", (a + b) / 2, b, None) for a, b in shortened.chunk.regions]
    assert all(
        a <= word.start <= word.end <= b for word, (a, b) in zip(shortened.restore(middles), chunk.regions, strict=True)
    )


@given(SPANS)
def test_sound_is_as_long_as_its_times_and_keeps_the_speech(spans: list[tuple[float, float]]) -> None:
    chunk = chunks_of(spans)
    recording = np.arange(int(chunk.end * RATE) + RATE, dtype=np.float32)
    shortened = shorten(chunk)
    sound = shortened.audio(recording)
    assert abs(len(sound) - shortened.seconds * RATE) <= 1
    for (start, _), (begin, _) in zip(chunk.regions, shortened.chunk.regions, strict=True):
        at = round((begin - chunk.start) * RATE)
        assert abs(sound[min(at, len(sound) - 1)] - start * RATE) <= 4  # float32 counts 2^24 samples


def test_sound_next_to_the_speech_is_kept() -> None:
    recording = np.zeros(60 * RATE, np.float32)
    recording[int(2.3 * RATE) : int(2.39 * RATE)] = 1  # soft endings and beginnings that detection missed
    recording[int(49.61 * RATE) : int(49.7 * RATE)] = 2
    recording[20 * RATE : 30 * RATE] = 3
    shortened = shorten(chunk_of((1.0, 2.0), (50.0, 51.0)))
    assert set(shortened.audio(recording).tolist()) == {0, 1, 2}
    assert shortened.seconds == pytest.approx(2.8, abs=1 / STEPS_PER_SECOND)


def test_quiet_voice_after_a_long_pause_is_raised() -> None:
    time = np.arange(2 * RATE) / RATE
    buzz = np.sin(2 * np.pi * 200 * time).astype(np.float32)
    recording = np.concatenate([0.1 * buzz, np.zeros(30 * RATE, np.float32), 0.0005 * buzz])
    sound = chunk_audio(recording, chunk_of((0.0, 2.0), (32.0, 34.0)))
    assert sound[: 2 * RATE].max() == pytest.approx(0.1, rel=0.01)
    assert sound[-RATE:].max() > 0.1


def test_a_chunk_is_cut_at_its_long_pauses() -> None:
    chunk = Chunk(0.5, 60.0, ((1.0, 2.0), (3.0, 4.0), (20.0, 21.0), (55.0, 59.0)), doubtful=True)
    parts = cut_at_long_pauses(chunk)
    assert [(part.start, part.end) for part in parts] == [(0.5, 4.0), (20.0, 21.0), (55.0, 60.0)]
    assert [region for part in parts for region in part.regions] == list(chunk.regions)
    assert all(part.doubtful for part in parts)
    assert cut_at_long_pauses(Chunk(0.0, 5.0, ())) == [Chunk(0.0, 5.0, ())]
