"""Speech in other languages than the sample's: read by espeak-ng, which the package espeakng-loader carries."""

import ctypes
from functools import cache

import espeakng_loader
import numpy as np
from scipy.signal import resample_poly

RETRIEVAL_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: sound comes through the callback, in this thread
CHARS_UTF8 = 1
RATE_PARAMETER = 1
WORDS_PER_MINUTE = 140

GERMAN = (
    "Guten Tag, meine Damen und Herren. Heute sprechen wir über das Wetter in Deutschland. Gestern hat es den ganzen Tag "
    "geregnet, aber morgen soll die Sonne scheinen."
)
SPANISH = "Buenos días a todos. Hoy vamos a hablar del tiempo en España. Ayer llovió todo el día, pero mañana va a brillar el sol."
NUMBERS = "In 1984 there were 25 people in the room, and they paid 300 dollars each. My phone number is 555 1234."


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The library and its sample rate."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    return library, library.espeak_Initialize(
        RETRIEVAL_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0
    )


@cache
def speak(text: str, voice: str) -> np.ndarray:
    """The text as `voice` (de, es, en-us) reads it: float32, mono, 16 kHz, read-only."""
    library, rate = _library()
    parts: list[np.ndarray] = []

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int | None) -> int:
        if samples and count:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    callback = kind(receive)  # kept until the end: the library holds no reference
    library.espeak_SetSynthCallback(callback)
    assert library.espeak_SetVoiceByName(voice.encode()) == 0
    library.espeak_SetParameter(RATE_PARAMETER, WORDS_PER_MINUTE, 0)
    data = text.encode() + b"\0"
    assert library.espeak_Synth(data, len(data), 0, 0, 0, CHARS_UTF8, None, None) == 0
    library.espeak_Synchronize()
    audio: np.ndarray = resample_poly(np.concatenate(parts) / 32768, 16_000, rate).astype(np.float32)
    audio.setflags(write=False)
    return audio
