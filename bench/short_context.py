"""`python -m bench.short_context`: compare Whisper on short speech with its padding to 30 s and with little padding.

The inputs are parts of the call from 2 to 22 s that start and end with its sentences, each decoded once either way,
without the daemon's second pass for uncertain results. CPU time is that of encoder and decoder, on one thread.
"""

import argparse
import time
from itertools import combinations

import numpy as np
from faster_whisper.tokenizer import Tokenizer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from whisperx.asr import WhisperModel
from whisperx.audio import N_SAMPLES, log_mel_spectrogram

from bench.corpus import Sound, call, noisy, telephone
from bench.measures import word_error_rate
from bench.setup import BEAM_SIZE
from daemon.pipeline.asr.encoding import short_samples
from daemon.pipeline.types import SAMPLE_RATE
from daemon.weights.packaged import whisper_base, whisper_tiny_en

LEAST_SECONDS, MOST_SECONDS = 2.0, 22.0
LEAD_SECONDS = 0.15  # before a sentence: the reference's starts are sometimes late


def stretches(count: int, seed: int = 1) -> list[tuple[float, float, str]]:
    """Yield start, end and text of runs of the call's sentences."""
    recording = call()
    starts = [max(0.0, sentence.start - LEAD_SECONDS) for sentence in recording.sentences] + [recording.duration]
    runs = [
        (starts[first], starts[after], " ".join(sentence.text for sentence in recording.sentences[first:after]))
        for first, after in combinations(range(len(starts)), 2)
        if LEAST_SECONDS <= starts[after] - starts[first] <= MOST_SECONDS
    ]
    return [runs[index] for index in np.random.default_rng(seed).permutation(len(runs))[:count]]


def errors(model: WhisperModel, audio: Sound, runs: list[tuple[float, float, str]], short: bool) -> tuple[float, float]:
    """Return word error rate and CPU seconds."""
    tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language="en")
    prompt = model.get_prompt(tokenizer, [], without_timestamps=True)
    began = time.process_time()
    texts = []
    for start, end, _ in runs:
        span = audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)].copy()
        samples = short_samples(len(span)) if short else N_SAMPLES
        mel = log_mel_spectrogram(span, model.model.n_mels, padding=samples - len(span)).numpy()
        (result,) = model.model.generate(model.encode(mel), [prompt], beam_size=BEAM_SIZE, max_length=model.max_length)
        texts.append(tokenizer.decode([token for token in result.sequences_ids[0] if token < tokenizer.eot]))
    return word_error_rate([text for _, _, text in runs], texts), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stretches", type=int, default=36)
    arguments = parser.parse_args()
    runs = stretches(arguments.stretches)
    original = call().audio
    sounds = {"original": original, "telephone": telephone(original), "noise, 10 dB SNR": noisy(original, 10.0)}
    table = Table(box=SIMPLE_HEAD)
    for heading in ("Model", "Sound", "WER padded", "WER short", "CPU time"):
        table.add_column(heading)
    for name, source in {"base": whisper_base(), "tiny.en": whisper_tiny_en()}.items():
        model = WhisperModel(str(source), device="cpu", compute_type="int8", cpu_threads=1)
        for sound, audio in sounds.items():
            (padded, padded_cpu), (short, short_cpu) = (errors(model, audio, runs, way) for way in (False, True))
            table.add_row(name, sound, f"{padded:.3f}", f"{short:.3f}", f"{short_cpu / padded_cpu:.2f} ×")
    Console().print(table)


if __name__ == "__main__":
    main()
