"""Whatever the file, Whisper understands the same words in it. `pytest -s` prints the word error rates."""

from pathlib import Path

import jiwer
import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

from tests.decoding import decoded
from tests.integration.pipeline_fixture import loaded, options, transcribe
from tests.media import Sound, speech
from tests.unit.test_any_media import KINDS

# Of the sample call. It begins with four greetings over one another, in which Whisper's smallest model hears something
# else at the least change; here it is sure of its words.
START, SECONDS = 13, 12

# Against the 35 words of the WAV, what compression may cost: one of them, and a telephone codec of 8 kHz some more.
USUAL_MAX_WER = 0.03
MAX_WER = {"libopencore_amrnb": 0.15}

# What keeps the wave to 60 dB is the WAV to Whisper: the unit test has shown that. One file of each other codec.
LOSSY = {kind.codec: kind for kind in reversed(KINDS) if kind.decibels < 60}

normalize = EnglishTextNormalizer()


def words(sound: Sound) -> str:
    job = options(diarize=False, align="off")
    transcript = transcribe(loaded()[0], "words", sound, job)
    return str(normalize(" ".join(segment.text for segment in transcript.segments)))


async def test_the_words_are_those_of_the_wav(tmp_path: Path) -> None:
    call = speech(START, SECONDS)
    reference = words(call)
    assert len(reference.split()) > 30
    rates = {}
    for codec, kind in LOSSY.items():
        stereo = np.stack([call, call], axis=1) if kind.more.get("layout") == "stereo" else call
        _, sound = await decoded(kind.make(tmp_path / codec, stereo))
        # Encoders fill up their last block; the recording ends in a word, which the silence would change.
        rates[codec] = jiwer.wer(reference, words(sound[: len(call)]))
    print("\n" + "\n".join(f"{codec:20} {rate:.3f}" for codec, rate in rates.items()))
    assert len(rates) > 10
    assert {codec: rate for codec, rate in rates.items() if rate > MAX_WER.get(codec, USUAL_MAX_WER)} == {}
