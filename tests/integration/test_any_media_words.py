"""Whisper recognises the same words whatever the file format. `pytest -s` prints the word error rates."""

from pathlib import Path
from statistics import median

import jiwer
import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

from tests.support.media.decoding import decoded
from tests.support.media.files import Sound, speech
from tests.support.media.kinds import KINDS
from tests.support.pipeline import loaded, options, transcribe

# Part of the sample call. The call starts with four overlapping greetings, where the smallest change alters the output
# of Whisper's smallest model; in this part it is confident.
START, SECONDS = 13, 12

# Most codecs change none of the WAV's 35 words, and some up to five; which ones, differs between processors. A wrong
# sample rate, a wrong channel or gaps change half of them or more.
MAX_WER = 0.2
MAX_MEDIAN_WER = 0.03

# Codecs that preserve the signal to 60 dB need no test here, as the unit test shows. One file of each other codec.
LOSSY = {kind.codec: kind for kind in reversed(KINDS) if kind.decibels < 60}

normalize = EnglishTextNormalizer()


def words(sound: Sound) -> str:
    job = options(diarize=False, align="off")
    transcript = transcribe(loaded("float32")[0], "words", sound, job)
    return str(normalize(" ".join(segment.text for segment in transcript.segments)))


async def test_words_are_those_of_the_wav(tmp_path: Path) -> None:
    call = speech(START, SECONDS)
    reference = words(call)
    assert len(reference.split()) > 30
    rates = {}
    for codec, kind in LOSSY.items():
        stereo = np.stack([call, call], axis=1) if kind.more.get("layout") == "stereo" else call
        _, sound = await decoded(kind.make(tmp_path / codec, stereo))
        # Encoders pad their last block; the recording ends within a word, which the silence would change.
        rates[codec] = jiwer.wer(reference, words(sound[: len(call)]))
    print("\n" + "\n".join(f"{codec:20} {rate:.3f}" for codec, rate in rates.items()))
    assert len(rates) > 10
    assert {codec: rate for codec, rate in rates.items() if rate > MAX_WER} == {}
    assert median(rates.values()) <= MAX_MEDIAN_WER
