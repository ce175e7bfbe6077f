"""Generated speech in languages other than the sample's, read by espeak-ng from the package espeakng-loader."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

PROCESS = Path(__file__).with_name("espeak_process.py")

GERMAN = (
    "Guten Tag, meine Damen und Herren. Heute sprechen wir über das Wetter in Deutschland. Gestern hat es den ganzen Tag "
    "geregnet, aber morgen soll die Sonne scheinen."
)
SPANISH = "Buenos días a todos. Hoy vamos a hablar del tiempo en España. Ayer llovió todo el día, pero mañana va a brillar el sol."
NUMBERS = "In 1984 there were 25 people in the room, and they paid 300 dollars each. My phone number is 555 1234."


@cache
def speak(text: str, voice: str) -> np.ndarray:
    """Return the text read by `voice` (de, es, en-us): float32, mono, 16 kHz, read-only, independent of earlier
    calls."""
    spoken = subprocess.run([sys.executable, "-I", PROCESS, text, voice], stdout=subprocess.PIPE, check=True).stdout
    rate, _, samples = spoken.partition(b"\n")
    sound = np.frombuffer(samples, np.int16) / 32768
    audio: np.ndarray = resample_poly(sound, 16_000, int(rate)).astype(np.float32)
    audio.setflags(write=False)
    return audio
