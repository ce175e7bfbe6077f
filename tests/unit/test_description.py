"""The description of a recording without words."""

import numpy as np
import pytest

from daemon.pipeline.speech.description import describe
from daemon.pipeline.types import SAMPLE_RATE as RATE

TIME = np.arange(10 * RATE) / RATE
TONE = np.sin(2 * np.pi * 440 * TIME)
NOISE = np.random.default_rng(0).normal(0, 1, 10 * RATE)
CHORD = sum(np.sin(2 * np.pi * hertz * TIME) for hertz in (220, 277, 330, 440, 554, 660, 880)) / 7
BEATS = CHORD * np.exp(-6 * (TIME % 0.5))


@pytest.mark.parametrize(
    ("sound", "expected"),
    [
        (0 * TONE, "it is digital silence"),
        (np.round(0.4 * NOISE / NOISE.max()) / 2**15, "it is digital silence"),
        (0.0003 * BEATS, "it is almost silent: its loudest moments are at -82 dB"),
        (0.5 * TONE, "it has a tone near 440 Hz at -9 dB in 10.0 of 10.0 s"),
        (0.5 * TONE * (TIME % 2 < 0.5), "it has a tone near 440 Hz at -9 dB in 2.5 of 10.0 s"),
        (0.1 * NOISE, "it has steady noise at -19 dB in 10.0 of 10.0 s"),
        (0.1 * NOISE * (1.1 + np.sin(5 * TIME)), "it has noise at -13 dB in 10.0 of 10.0 s"),
        (0.5 * CHORD, "it has a steady sound, such as hum or music, at -17 dB in 10.0 of 10.0 s"),
        (BEATS, "it has sound, such as music, at -11 dB in 10.0 of 10.0 s"),
        (np.clip(50 * BEATS, -1, 1), "it has clipped sound at 0 dB in 10.0 of 10.0 s"),
        (TONE[:100], "it lasts only 0.006 s"),
        (BEATS[:4800], "it lasts only 0.300 s"),
        (TONE[:0], "it lasts only 0.000 s"),
    ],
)
def test_kind_level_and_length_of_the_sound(sound: np.ndarray, expected: str) -> None:
    assert describe(sound.astype(np.float32)) == expected


def test_click_does_not_hide_the_rest() -> None:
    sound = 0.05 * NOISE
    sound[RATE] = 1.0
    assert describe(sound.astype(np.float32)) == "it has steady noise at -25 dB in 10.0 of 10.0 s"


def test_long_recording_is_described_without_a_copy_of_it() -> None:
    sound = np.broadcast_to(np.float32(0), 12 * 3600 * RATE)  # a view of one sample
    assert describe(sound) == "it is digital silence"
