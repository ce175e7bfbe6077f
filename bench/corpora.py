"""The corpora of `make bench`, with their reference text, speakers and times.

Half of the audio is real: the call shipped with pyannote.audio, cut and reassembled. The other half is read by
espeak-ng in two voices. Everything is seeded, so each run produces the same recordings.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bench.corpus import Recording, call, cut, join, short_clips
from bench.espeak import speak
from bench.reference import Sentence
from daemon.pipeline.types import SAMPLE_RATE, Turn

MINUTE_SECONDS = 60
GAPS_SECONDS = (0.3, 3.0)  # gap between pieces
CLIP_SECONDS = (1.0, 24.0)  # length of generated clips, which last up to a sentence longer
CHANGE_SECONDS = 5 * MINUTE_SECONDS  # in long recordings, time until the other two speakers take over

# Voices that use no random numbers from the C library, unlike others of espeak-ng, so that their output is
# deterministic.
VOICES = ("en-us+m3", "en-us+f4")
QUIET = 0.005  # of full scale; espeak-ng output starts and ends with silence

SENTENCES = """
Good morning, thank you for calling back so quickly.
The delivery came on Monday, but two of the boxes were open.
Could you send me the papers before the meeting begins?
I have spoken with the driver, and he does not remember anything.
We would rather wait another week than change the supplier now.
Please write down the name of the person you talked to.
The weather was terrible, so the flight left in the evening.
My sister lives in a small town near the river.
If the price stays the same, we will order the larger machine.
Nobody told me that the office would be closed on Friday.
There is a problem with the heating on the second floor.
She asked whether the contract had already been signed.
Let us look at the numbers again and decide tomorrow.
He has been working for the company since it was founded.
The doctor said that it is nothing to worry about.
I will call the bank and ask them to stop the payment.
What happened to the green folder that was lying on my desk?
The new system is faster, but people have to get used to it.
Our customers want an answer within a day, and they are right.
You can leave the keys with the lady at the front desk.
The road was blocked, and we had to drive through the forest.
It would help me a lot if you could speak a little slower.
The children were playing in the garden until it became dark.
That sounds good to me, let us do it exactly like that.
""".strip().splitlines()


def clips(scale: float) -> list[Recording]:
    """60 clips of 2 to 30 s."""
    return _clips(max(2, round(60 * scale)), seed=11)


def ten(scale: float) -> list[Recording]:
    """Six recordings of 10 min, alternately from the call and generated."""
    return [_alternating(f"ten {index}", scale * 10 * MINUTE_SECONDS, index, seed=20 + index) for index in range(6)]


def hour(scale: float) -> list[Recording]:
    """One recording of an hour."""
    return [_alternating("hour", scale * 60 * MINUTE_SECONDS, 0, seed=30)]


def mix(scale: float) -> list[Recording]:
    """40 clips, two recordings of 10 min and one of half an hour, in random order: one hour in total."""
    long = [10, 10, 30]
    recordings = _clips(max(2, round(40 * scale)), seed=12) + [
        _alternating(f"long {index}", scale * minutes * MINUTE_SECONDS, index, seed=40 + index)
        for index, minutes in enumerate(long)
    ]
    return [recordings[index] for index in np.random.default_rng(0).permutation(len(recordings))]


# `scale` reduces the number of clips and the length of long recordings.
CORPORA: dict[str, Callable[[float], list[Recording]]] = {"clips": clips, "ten": ten, "hour": hour, "mix": mix}


def generated(voices: Sequence[str] = VOICES) -> list[Recording]:
    """Return each sentence in each voice."""
    return [read_aloud(text, voice) for text in SENTENCES for voice in voices]


def read_aloud(text: str, voice: str) -> Recording:
    """Return the text as one sentence and one turn, without the silence around it."""
    audio = speak(text, voice)
    loud = np.flatnonzero(np.abs(audio) > QUIET)
    audio = audio[loud[0] : loud[-1] + 1]
    return Recording(voice, audio, [Sentence(0.0, text, voice)], [Turn(0.0, len(audio) / SAMPLE_RATE, voice)])


def talk(name: str, pieces: Sequence[Recording], seconds: float, seed: int) -> Recording:
    """Join the pieces in random order, repeatedly, with pauses, until they last at least `seconds`; always at least
    one."""
    random = np.random.default_rng(seed)
    chosen: list[Recording] = []
    gaps: list[float] = []
    order: list[int] = []
    lasted = 0.0
    while lasted < seconds:
        order = order or random.permutation(len(pieces)).tolist()
        chosen.append(pieces[order.pop()])
        gaps.append(float(random.uniform(*GAPS_SECONDS)))
        lasted += chosen[-1].duration + gaps[-1]
    return join(name, chosen, gaps[:-1])


def _clips(count: int, seed: int) -> list[Recording]:
    """Return clips, alternately from the call and generated."""
    random = np.random.default_rng(seed)
    pieces = generated()
    made = [
        talk(f"{index:03} generated", pieces, float(random.uniform(*CLIP_SECONDS)), seed=1000 * seed + index)
        for index in range(count // 2)
    ]
    real = short_clips(count - len(made), seed)
    return [recording for pair in zip(real, [*made, None], strict=False) for recording in pair if recording]


def _alternating(name: str, seconds: float, first: int, seed: int) -> Recording:
    """Alternate every CHANGE_SECONDS between the call's speakers and the generated ones; an even `first` starts with
    the call."""
    pieces = (cut(call()), generated())
    parts: list[Recording] = []
    while (missing := seconds - sum(part.duration for part in parts)) > 0:
        which = (first + len(parts)) % 2
        parts.append(talk(name, pieces[which], min(missing, CHANGE_SECONDS), seed=1000 * seed + len(parts)))
    return join(name, parts, [GAPS_SECONDS[1]] * (len(parts) - 1))
