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

# By language. Whisper base recognizes nearly all of these sentences without an error when they are alone, read by this
# voice, so that errors are due to the pauses.
VOICES = {"en": "en-us+m3", "de": "de", "es": "es+m7", "it": "it+m7", "pl": "pl+f5"}
SENTENCES = {
    "en": [
        "Good morning, thank you for calling back so quickly.",
        "My sister lives in a small town near the river.",
        "If the price stays the same, we will order the larger machine.",
        "The delivery came on Monday, but two of the boxes were open.",
        "She asked whether the contract had already been signed.",
    ],
    "de": [
        "Gestern hat es den ganzen Tag geregnet.",
        "Ich möchte einen Termin für nächste Woche machen.",
        "Guten Tag, meine Damen und Herren.",
        "Ich habe heute leider keine Zeit.",
        "Wir haben heute keine Zeit.",
    ],
    "es": [
        "Hoy vamos a hablar del tiempo en España.",
        "Los niños juegan en el jardín de la escuela.",
        "Necesito hablar con el director de la empresa.",
        "Estamos hablando de la historia de España.",
        "Buenos días a todos y muchas gracias.",
    ],
    "it": [
        "Oggi parliamo di una cosa molto importante.",
        "Non ho molto tempo per parlare.",
        "Domani parliamo di musica e di teatro.",
        "Grazie a tutti per la vostra attenzione.",
        "Abbiamo un problema molto importante.",
    ],
    "pl": [
        "Dzisiaj będziemy rozmawiać o pogodzie w Polsce.",
        "Wczoraj był bardzo dobry dzień.",
        "Porozmawiamy o tym jutro rano.",
        "To był bardzo dobry dzień.",
        "Będziemy rozmawiać o pogodzie przez cały dzień.",
    ],
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
