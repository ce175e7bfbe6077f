"""Read a text aloud with espeak-ng and write the audio to stdout: the sample rate as text and a line feed, then int16.

Each text needs a separate process, because the library keeps state between calls that changes the output of later
texts.
"""

import ctypes
import sys

import espeakng_loader

RETRIEVAL_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: audio is passed to the callback, in this thread
CHARS_UTF8 = 1
RATE_PARAMETER = 1
WORDS_PER_MINUTE = 140


def read_aloud(text: str, voice: str) -> tuple[int, bytes]:
    """Return the sample rate and mono int16 samples. Raises ValueError if espeak-ng has no such voice."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(RETRIEVAL_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)
    sound = bytearray()

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int | None) -> int:
        if samples and count:
            sound.extend(ctypes.string_at(samples, count * ctypes.sizeof(ctypes.c_short)))
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    callback = kind(receive)  # kept until the end: the library holds no reference
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice}")
    library.espeak_SetParameter(RATE_PARAMETER, WORDS_PER_MINUTE, 0)
    data = text.encode() + b"\0"
    library.espeak_Synth(data, len(data), 0, 0, 0, CHARS_UTF8, None, None)
    library.espeak_Synchronize()
    return rate, bytes(sound)


if __name__ == "__main__":
    found_rate, found_sound = read_aloud(*sys.argv[1:])
    sys.stdout.buffer.write(f"{found_rate}\n".encode() + found_sound)
