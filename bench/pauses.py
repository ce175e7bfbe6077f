"""Generated recordings with pauses, whose times are exact: sentences in five languages, read by espeak-ng.

The pauses last 0.5 to 25 s, so a Whisper window of 30 s contains five sentences down to one.
"""

from dataclasses import replace

import numpy as np

from bench.corpora import read_aloud
from bench.corpus import LINE_NOISE_DBFS, Recording, join, noise

PAUSES_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0)
MARGIN_SECONDS = 1.0  # before the first and after the last sentence
ALONE = "each sentence alone"

# Voices and sentences that Whisper base recognizes best.
VOICES = {"en": "en-us+m3", "de": "de", "es": "es+m7", "fr": "fr+m7", "pl": "pl"}
SENTENCES = {
    "en": [
        "Good morning, thank you for calling back so quickly.",
        "My sister lives in a small town near the river.",
        "If the price stays the same, we will order the larger machine.",
        "The children were playing in the garden until it became dark.",
        "I will call the bank and ask them to stop the payment.",
    ],
    "de": ["Gestern hat es den ganzen Tag geregnet.", "b"], "es": ["a"], "fr": ["a"], "pl": ["a"],
}


def pause_name(seconds: float) -> str:
    return f"pauses of {seconds:g} s"


def alone(language: str) -> list[Recording]:
    """Return a recording of each sentence: what a peer recognizes without pauses."""
    return [
        _with_margin(f"{language}, sentence {index}", [piece], 0.0) for index, piece in enumerate(_pieces(language))
    ]


def with_pauses(language: str, pause_seconds: float, *, is_noisy: bool) -> Recording:
    """Return the language's sentences with equal pauses, in digital silence or with line noise throughout."""
    recording = _with_margin(f"{language}, {pause_name(pause_seconds)}", _pieces(language), pause_seconds)
    if not is_noisy:
        return recording
    return replace(recording, audio=recording.audio + noise(len(recording.audio), LINE_NOISE_DBFS))


def _pieces(language: str) -> list[Recording]:
    return [replace(read_aloud(text, VOICES[language]), language=language) for text in SENTENCES[language]]


def _with_margin(name: str, pieces: list[Recording], pause_seconds: float) -> Recording:
    margin = Recording("margin", np.zeros(0, np.float32), [], [])
    gaps = [MARGIN_SECONDS, *[pause_seconds] * (len(pieces) - 1), MARGIN_SECONDS]
    joined = join(name, [margin, *pieces, margin], gaps, dbfs=None)
    return replace(joined, language=pieces[0].language)
