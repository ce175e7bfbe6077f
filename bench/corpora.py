"""The sets of recordings that `make bench` measures on, with what is said in them, by whom and when.

Half of the sound is real: the call that pyannote.audio carries, cut and put together anew. The other half is read by
espeak-ng in two voices. Everything is seeded: each run makes the same recordings.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bench.corpus import Recording, call, cut, join, short_clips
from daemon.pipeline.pieces import SAMPLE_RATE, Turn
from tests.espeak import speak
from tests.reference import Sentence

MINUTE_SECONDS = 60
GAPS_SECONDS = (0.3, 3.0)  # from one piece to the next
CLIP_SECONDS = (1.0, 24.0)  # of generated clips, which last up to a sentence longer
CHANGE_SECONDS = 5 * MINUTE_SECONDS  # in long recordings, until the other two speak

# These use no random numbers of the C library's, as other voices of espeak-ng do: their sound is the same each time.
VOICES = ("en-us+m3", "en-us+f4")
QUIET = 0.005  # of full scale; espeak-ng begins and ends with silence

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
    """6 recordings of 10 min, the call's and generated ones in turns."""
    return [_alternating(f"ten {index}", scale * 10 * MINUTE_SECONDS, index, seed=20 + index) for index in range(6)]


def hour(scale: float) -> list[Recording]:
    """One recording of an hour."""
    return [_alternating("hour", scale * 60 * MINUTE_SECONDS, 0, seed=30)]


def mix(scale: float) -> list[Recording]:
    """40 clips, 2 recordings of 10 min and one of half an hour, in random order: an hour in all."""
    long = [10, 10, 30]
    recordings = _clips(max(2, round(40 * scale)), seed=12) + [
        _alternating(f"long {index}", scale * minutes * MINUTE_SECONDS, index, seed=40 + index)
        for index, minutes in enumerate(long)
    ]
    return [recordings[index] for index in np.random.default_rng(0).permutation(len(recordings))]


# `scale` makes clips fewer and long recordings shorter.
CORPORA: dict[str, Callable[[float], list[Recording]]] = {"clips": clips, "ten": ten, "hour": hour, "mix": mix}


def generated(voices: Sequence[str] = VOICES) -> list[Recording]:
    """Each sentence in each voice."""
    return [_read_aloud(text, voice) for text in SENTENCES for voice in voices]


def _read_aloud(text: str, voice: str) -> Recording:
    audio = speak(text, voice)
    loud = np.flatnonzero(np.abs(audio) > QUIET)
    audio = audio[loud[0] : loud[-1] + 1]
    return Recording(voice, audio, [Sentence(0.0, text, voice)], [Turn(0.0, len(audio) / SAMPLE_RATE, voice)])


def talk(name: str, pieces: Sequence[Recording], seconds: float, seed: int) -> Recording:
    """The pieces in random order, over and over, with pauses, until they last so long; at least one of them."""
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
    """The call's and generated ones in turns."""
    random = np.random.default_rng(seed)
    pieces = generated()
    made = [
        talk(f"{index:03} generated", pieces, float(random.uniform(*CLIP_SECONDS)), seed=1000 * seed + index)
        for index in range(count // 2)
    ]
    real = short_clips(count - len(made), seed)
    return [recording for pair in zip(real, [*made, None], strict=False) for recording in pair if recording]


def _alternating(name: str, seconds: float, first: int, seed: int) -> Recording:
    """CHANGE_SECONDS of the call's speakers, then of the generated ones, and so on; `first` is even for the call's."""
    pieces = (cut(call()), generated())
    parts: list[Recording] = []
    while (missing := seconds - sum(part.duration for part in parts)) > 0:
        which = (first + len(parts)) % 2
        parts.append(talk(name, pieces[which], min(missing, CHANGE_SECONDS), seed=1000 * seed + len(parts)))
    return join(name, parts, [GAPS_SECONDS[1]] * (len(parts) - 1))
