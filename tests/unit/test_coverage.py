"""The rescan of gaps for speech that detection missed."""

import numpy as np
import pytest

from daemon.pipeline.speech.coverage import add_missed_speech, could_be_speech, gaps
from daemon.pipeline.speech.levels import chunk_audio, is_steady, levels, raise_quiet
from daemon.pipeline.types import SAMPLE_RATE, Chunk

RATE = SAMPLE_RATE


def noise(seconds: float, level: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, int(seconds * RATE)).astype(np.float32)


def voice(seconds: float, level: float) -> np.ndarray:
    """Return a buzz of 120 Hz modulated at four times per second, as vowels are."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 30))
    return (level * buzz * (np.sin(2 * np.pi * 4 * time) > 0)).astype(np.float32)


def span(start: float, end: float) -> Chunk:
    return Chunk(start, end, ((start, end),))


def test_levels_are_decibels_of_full_scale() -> None:
    assert levels(np.ones(RATE, np.float32)) == pytest.approx(np.zeros(50))
    assert levels(np.zeros(RATE, np.float32)) == pytest.approx(np.full(50, -90.0))
    assert len(levels(np.zeros(100, np.float32))) == 0


def test_gaps_keep_a_distance_from_speech() -> None:
    assert gaps([], 10.0) == []  # no speech was detected that could have masked other speech
    assert gaps([span(2.0, 5.0), span(5.5, 8.0)], 12.0) == [(0.0, 1.8), (8.2, 12.0)]
    assert gaps([span(0.0, 12.0)], 12.0) == []
    assert gaps([span(50.0, 60.0), span(100.0, 110.0)], 500.0) == [
        (39.8, 49.8),
        (60.2, 70.2),
        (89.8, 99.8),
        (110.2, 120.2),
    ]


def test_only_loud_pitched_gaps_are_rescanned() -> None:
    floor = -60.0
    assert could_be_speech(voice(2.0, 0.01) + noise(2.0, 0.001), floor)
    assert not could_be_speech(noise(2.0, 0.001), floor)  # the noise itself
    assert not could_be_speech(noise(2.0, 0.1), floor)  # louder noise: applause, rain
    assert not could_be_speech(voice(0.3, 0.01), floor)  # a click


def test_missed_speech_is_inserted_in_order() -> None:
    audio = noise(12.0, 0.0001)
    audio[4 * RATE : 7 * RATE] += voice(3.0, 0.01)
    heard: list[int] = []

    def detect(gap: np.ndarray) -> list[Chunk]:
        heard.append(len(gap))
        return [Chunk(1.0, 3.0, ((1.0, 2.0), (2.5, 3.0)))]

    found = add_missed_speech([span(0.0, 3.0), span(8.0, 10.0)], audio, detect)
    assert heard == [pytest.approx(4.6 * RATE, abs=1)]  # the gap after 10 s is quiet
    assert [chunk.doubtful for chunk in found] == [False, True, False]
    assert [found[1].start, found[1].end] == pytest.approx([4.2, 6.2])
    assert list(found[1].regions[1]) == pytest.approx([5.7, 6.2])


def test_speech_missed_in_a_long_pause_splits_the_chunk() -> None:
    audio = noise(40.0, 0.0001)
    audio[8 * RATE : 11 * RATE] += voice(3.0, 0.01)
    chunk = Chunk(0.0, 36.0, ((0.0, 3.0), (15.0, 20.0), (35.0, 36.0)))
    found = add_missed_speech([chunk], audio, lambda _: [Chunk(4.0, 6.0, ((4.0, 6.0),))])
    assert [it.doubtful for it in found] == [False, True, False]
    assert [it.regions for it in found if not it.doubtful] == [((0.0, 3.0),), ((15.0, 20.0), (35.0, 36.0))]
    assert [(it.start, it.end) for it in found if not it.doubtful] == [(0.0, 3.0), (15.0, 36.0)]


@pytest.mark.parametrize("audio", [np.zeros(RATE * 30, np.float32), np.zeros(0, np.float32)])
def test_digital_silence_is_not_rescanned(audio: np.ndarray) -> None:
    chunks = [span(0.0, 1.0)] if len(audio) else []
    assert add_missed_speech(chunks, audio, lambda _: [span(0.0, 1.0)]) == chunks


def test_steady_sounds() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE).astype(np.float32)
    for steady in (tone, noise(3.0, 0.1), np.zeros(3 * RATE, np.float32), np.zeros(0, np.float32)):
        assert is_steady(steady)
    assert not is_steady(voice(3.0, 0.1))


@pytest.mark.parametrize("level", [0.5, 0.05, 0.02])
def test_audio_of_usual_level_is_not_raised(level: float) -> None:
    for seconds in (0.1, 0.3, 3.0):
        audio = voice(seconds, level)
        assert raise_quiet(audio) is audio


@pytest.mark.parametrize("level", [0.002, 0.0002])
@pytest.mark.parametrize("seconds", [0.3, 3.0, 30.0])
def test_quiet_audio_is_raised_as_a_whole(level: float, seconds: float) -> None:
    audio = voice(seconds, level)
    raised = raise_quiet(audio)
    assert raised.dtype == np.float32
    assert -20 < np.percentile(levels(raised), 90) < -10
    assert np.ptp(raised[audio != 0] / audio[audio != 0]) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("audio", [np.zeros(RATE, np.float32), noise(1.0, 0.00005), np.zeros(0, np.float32)])
def test_silence_is_not_raised(audio: np.ndarray) -> None:
    assert raise_quiet(audio) is audio


def test_one_quiet_voice_of_a_chunk_is_raised() -> None:
    audio = np.concatenate([noise(1.0, 0.001), voice(2.0, 0.1), noise(1.0, 0.001), voice(2.0, 0.0005)])
    chunk = Chunk(1.0, 6.0, ((1.0, 3.0), (4.0, 6.0)))
    span = chunk_audio(audio, chunk)
    np.testing.assert_array_equal(span[: 3 * RATE], audio[RATE : 4 * RATE])
    assert -20 < np.percentile(levels(span[3 * RATE :]), 90) < -10
    assert np.abs(audio[4 * RATE :]).max() < 0.01  # the recording itself is shared and stays as it is
