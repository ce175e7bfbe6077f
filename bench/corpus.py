"""Recordings with known text, speakers and times: one real call, and variants derived from it.

Audio is float32 in [-1, 1], one channel, 16 kHz. All randomness is seeded, so each run produces the same recordings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import butter, resample_poly, sosfilt

from bench.reference import Sentence, reference_sentences, reference_turns, sample_audio
from daemon.pipeline.types import SAMPLE_RATE, Turn

Sound = NDArray[np.float32]

# Pauses in the call, determined by its level, where it can be cut without cutting a word.
CUTS_SECONDS = (7.45, 17.93, 21.62)

PAUSES_SECONDS = (2.0, 8.0, 20.0)  # inserted at the cuts

LINE_NOISE_DBFS = -71.0  # from the call's own pauses
MU = 255  # G.711's companding, as used in North American telephony


@dataclass(frozen=True, slots=True)
class Recording:
    name: str
    audio: Sound
    sentences: list[Sentence]
    turns: list[Turn]
    language: str | None = None  # given to the peers; None lets them detect it

    @property
    def duration(self) -> float:
        return len(self.audio) / SAMPLE_RATE

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)


def write_wav(path: Path, audio: Sound) -> Path:
    """Write a WAV file of float32, which is lossless."""
    wavfile.write(path, SAMPLE_RATE, audio)
    return path


def call() -> Recording:
    """Return the telephone call shipped with pyannote.audio: 30 s, two speakers."""
    return Recording("call", sample_audio().copy(), reference_sentences(), reference_turns())


def conditions() -> list[Recording]:
    """Return the call under various recording conditions, named after the condition."""
    original = call()
    pieces = cut(original)
    return [
        original,
        replace(original, name="noise, 10 dB SNR", audio=noisy(original.audio, snr_db=10.0)),
        replace(original, name="8 kHz, 300–3400 Hz, μ-law", audio=telephone(original.audio)),
        replace(original, name="30 dB quieter", audio=original.audio * np.float32(10 ** (-30 / 20))),
        *(join(f"pauses of {pause:g} s", pieces, [pause] * (len(pieces) - 1)) for pause in PAUSES_SECONDS),
        at_speed(original, 9, 10),
        at_speed(original, 11, 10),
    ]


def long_call(loops: int = 9, seed: int = 5) -> Recording:
    """Return about five minutes: the call's pieces repeated in random order, with pauses of 0.3 to 5 s between them."""
    random = np.random.default_rng(seed)
    whole = cut(call())
    pieces = [whole[index] for _ in range(loops) for index in random.permutation(len(whole))]
    return join("5 min, shuffled", pieces, gaps=random.uniform(0.3, 5.0, len(pieces) - 1).tolist())


def short_clips(count: int, seed: int = 11) -> list[Recording]:
    """Return clips of 3.7 to 30 s with text and speakers: runs of the call's pieces under varying conditions."""
    random = np.random.default_rng(seed)
    variants = [
        original
        for original in conditions()
        if not original.name.startswith(("noise", "pauses"))  # all errors, and longer than a clip
    ]
    cuts = [(variant, cut(variant)) for variant in variants if variant.duration == variants[0].duration]
    clips = []
    for number in range(count):
        variant, pieces = cuts[int(random.integers(len(cuts)))]
        first = int(random.integers(len(pieces)))
        last = int(random.integers(first, len(pieces)))
        clips.append(join(f"{number:03} {variant.name}", pieces[first : last + 1], [0.0] * (last - first)))
    return clips


def without_speech(seconds: float = 30.0) -> list[Recording]:
    """Return sounds without speech; every word recognised in them is a hallucination."""
    samples = round(seconds * SAMPLE_RATE)
    time = np.arange(samples) / SAMPLE_RATE
    orders = np.array([1, 2, 3, 5])[:, None]
    hum = (0.02 / orders * np.sin(2 * np.pi * 50 * orders * time)).sum(0)
    ringing = 0.1 * (np.sin(2 * np.pi * 440 * time) + np.sin(2 * np.pi * 480 * time)) * (time % 6 < 2)
    sounds = {
        "digital silence": np.zeros(samples),
        "line noise": noise(samples, LINE_NOISE_DBFS),
        "white noise, −20 dBFS": noise(samples, -20.0),
        "mains hum": hum + noise(samples, -60.0),
        "ringing tone": ringing + noise(samples, LINE_NOISE_DBFS),
        "music": music(samples),
        "speech, backwards": call().audio[::-1][:samples],  # a voice that speech detection lets pass
    }
    return [Recording(name, sound.astype(np.float32), [], []) for name, sound in sounds.items()]


# --- making recordings --------------------------------------------------------------------------------------------


def cut(recording: Recording) -> list[Recording]:
    """Cut the call into four pieces, each with its own clock; a sentence belongs to the piece that contains most of
    it."""
    bounds = [0.0, *CUTS_SECONDS, recording.duration]
    starts = [sentence.start for sentence in recording.sentences]
    ends = [*starts[1:], recording.duration]
    middles = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    return [
        Recording(
            f"{recording.name} {begin:g}–{end:g} s",
            recording.audio[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)],
            _shifted_sentences(
                [s for s, middle in zip(recording.sentences, middles, strict=True) if begin <= middle < end], -begin
            ),
            shifted_turns([turn for turn in recording.turns if begin <= turn.start < end], -begin),
        )
        for begin, end in pairwise(bounds)
    ]


def join(
    name: str, pieces: Sequence[Recording], gaps: Sequence[float], dbfs: float | None = LINE_NOISE_DBFS
) -> Recording:
    """Join the pieces, with the given seconds of noise between them, or of digital silence if `dbfs` is None."""
    sounds: list[Sound] = []
    sentences: list[Sentence] = []
    turns: list[Turn] = []
    samples = 0
    for index, (piece, gap) in enumerate(zip(pieces, [*gaps, 0.0], strict=True)):
        offset = samples / SAMPLE_RATE
        sentences += _shifted_sentences(piece.sentences, offset)
        turns += shifted_turns(piece.turns, offset)
        length = round(gap * SAMPLE_RATE)
        silence = np.zeros(length, np.float32) if dbfs is None else noise(length, dbfs, seed=index)
        sounds += [piece.audio, silence]
        samples += len(piece.audio) + len(silence)
    return Recording(name, np.concatenate(sounds), sentences, turns)


def at_speed(recording: Recording, up: int, down: int) -> Recording:
    """Change the speed by `up / down`, like a tape: the pitch changes with it."""
    factor = down / up
    return Recording(
        f"{up / down:g} × speed",
        resample_poly(recording.audio, down, up).astype(np.float32),
        [sentence._replace(start=sentence.start * factor) for sentence in recording.sentences],
        [Turn(turn.start * factor, turn.end * factor, turn.speaker) for turn in recording.turns],
    )


def noisy(audio: Sound, snr_db: float) -> Sound:
    """Add white noise at the given distance below the mean power of everything louder than line noise."""
    power = np.square(audio[np.abs(audio) > 10 ** (-50 / 20)]).mean()
    return audio + noise(len(audio), 10 * float(np.log10(power)) - snr_db)


def telephone(audio: Sound) -> Sound:
    """Simulate a narrow-band telephone line: 8 kHz, band-limited, companded to 8 bits and back (ITU-T G.711)."""
    band = butter(4, (300, 3400), "bandpass", fs=8_000, output="sos")
    narrow = np.clip(sosfilt(band, resample_poly(audio, 1, 2)), -1, 1)
    companded = np.round(np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / np.log1p(MU) * 127) / 127
    expanded = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU
    return np.asarray(resample_poly(expanded, 2, 1)[: len(audio)], np.float32)


def noise(samples: int, dbfs: float, seed: int = 0) -> Sound:
    """Return white noise at this level."""
    return np.random.default_rng(seed).normal(0, 10 ** (dbfs / 20), samples).astype(np.float32)


def music(samples: int, seed: int = 0) -> Sound:
    """Return chords, a tune and a beat at 120 per minute: synthetic, but pitched, rhythmic, and as loud as speech."""
    random = np.random.default_rng(seed)
    beat = SAMPLE_RATE // 2
    time = np.arange(beat) / SAMPLE_RATE
    fade = np.exp(-4 * time)

    def tone(semitones: int) -> NDArray[np.float64]:
        pitch = 220 * 2 ** (semitones / 12)
        return np.asarray(sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 7)) * fade)

    chords = [(0, 4, 7), (7, 11, 14), (9, 12, 16), (5, 9, 12)]  # I V vi IV
    bars = []
    for index in range(samples // beat + 1):
        chord = chords[index // 4 % 4]
        tune = tone(12 + int(random.choice(chord)))
        drum = random.normal(0, 0.3, beat) * np.exp(-30 * time)
        bars.append(sum(tone(note) for note in chord) / 3 + tune + drum)
    return np.asarray(0.1 * np.concatenate(bars)[:samples], np.float32)


def write_loops(path: Path, seconds: float, seed: int = 7) -> list[float]:
    """Write the call repeatedly, with pauses of 1 to 10 s, as raw float32, and return where each repetition starts. The
    audio is never completely in memory."""
    audio, random = call().audio, np.random.default_rng(seed)
    starts: list[float] = []
    samples = 0
    with path.open("wb") as file:
        while samples < seconds * SAMPLE_RATE:
            starts.append(samples / SAMPLE_RATE)
            pause = noise(round(random.uniform(1.0, 10.0) * SAMPLE_RATE), LINE_NOISE_DBFS, seed=len(starts))
            for sound in (audio, pause):
                file.write(sound.astype("<f4").tobytes())
                samples += len(sound)
    return starts


def _shifted_sentences(sentences: Sequence[Sentence], seconds: float) -> list[Sentence]:
    return [sentence._replace(start=sentence.start + seconds) for sentence in sentences]


def shifted_turns(turns: Sequence[Turn], seconds: float) -> list[Turn]:
    return [Turn(turn.start + seconds, turn.end + seconds, turn.speaker) for turn in turns]
