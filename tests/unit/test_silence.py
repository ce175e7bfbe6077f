"""Silence in detected speech, by its level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.speech.silence import MARGIN_SECONDS, without_silence
from daemon.pipeline.types import SAMPLE_RATE, Chunk
from tests.support.words import chunks

FRAME_SECONDS = 0.02


def tone(seconds: float, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def quiet(seconds: float, dbfs: float = -70.0) -> np.ndarray:
    samples = round(seconds * SAMPLE_RATE)
    return np.random.default_rng(0).normal(0, 10 ** (dbfs / 20), samples).astype(np.float32)


def regions(audio: np.ndarray) -> tuple[tuple[float, float], ...]:
    seconds = len(audio) / SAMPLE_RATE
    return without_silence(audio, Chunk(0.0, seconds, ((0.0, seconds),))).regions


@pytest.mark.parametrize("dbfs", [-200.0, -70.0])
def test_a_region_is_cut_at_a_pause(dbfs: float) -> None:
    (first, second) = regions(np.concatenate([tone(2.0), quiet(0.6, dbfs), tone(1.5)]))
    assert first == pytest.approx((0.0, 2.0 + MARGIN_SECONDS), abs=FRAME_SECONDS)
    assert second == pytest.approx((2.6 - MARGIN_SECONDS, 4.1), abs=FRAME_SECONDS)


def test_a_region_begins_and_ends_with_its_sound() -> None:
    [region] = regions(np.concatenate([quiet(0.1), tone(2.0), quiet(0.6)]))
    assert region == pytest.approx((0.1 - MARGIN_SECONDS, 2.1 + MARGIN_SECONDS), abs=FRAME_SECONDS)


def test_the_level_is_compared_with_that_of_the_same_region() -> None:
    audio = np.concatenate([tone(2.0), tone(2.0, 0.01), quiet(0.5, -200.0), tone(2.0, 0.01)])
    cut = without_silence(audio, Chunk(0.0, 6.5, ((0.0, 2.0), (2.0, 6.5))))
    assert len(cut.regions) == 3
    assert cut.regions[0] == (0.0, 2.0)
    assert cut.regions[2] == pytest.approx((4.5 - MARGIN_SECONDS, 6.5), abs=FRAME_SECONDS)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(quiet(0.2), id="the closure of a plosive"),
        pytest.param(quiet(0.8, -40.0), id="noise"),
        pytest.param(tone(0.8, 0.01), id="a distant voice"),
    ],
)
def test_other_sound_is_part_of_the_speech(between: np.ndarray) -> None:
    assert len(regions(np.concatenate([tone(1.0), between, tone(1.0)]))) == 1


def test_sound_without_speech_or_frames_is_not_cut() -> None:
    assert regions(quiet(2.0)) == ((0.0, 2.0),)
    assert len(regions(quiet(0.01))) == 1


@given(chunks(), st.integers(0, 2**32 - 1))
def test_regions_stay_in_order_inside_the_old_ones(chunk: Chunk, seed: int) -> None:
    random = np.random.default_rng(seed)
    loud = np.repeat(random.choice([0.0, 0.3], 60), SAMPLE_RATE // 2)
    audio = (loud * random.normal(0, 1, len(loud))).astype(np.float32)
    cut = without_silence(audio, chunk)
    times = [time for region in cut.regions for time in region]
    assert times == sorted(times)
    assert (cut.start, cut.end) == (chunk.start, chunk.end)
    assert all(any(start <= begin < end <= stop for start, stop in chunk.regions) for begin, end in cut.regions)
