"""What Whisper made of a chunk: whether to believe it, try again, or take the chunk for silence."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

# openai/whisper, transcribe.py: a chunk beyond these is decoded again at rising temperature, or taken for silence.
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROBABILITY = 0.6

# A passage that is said twice in a chunk comes to about 2.6, and Whisper is sure of it: decoded at random it came out worse.
# One that comes three times is beyond this.
MAX_SURE_COMPRESSION_RATIO = 3.2

# A run of the same tokens is a loop when it comes so often and gets so long. Compression sees long loops alone, and
# people do say "no, no, no, no". Of a loop that Whisper got out of by itself more is asked: five callers' "Hello?" in a
# row were taken for one, and decoded at random.
MIN_LOOP_REPEATS = 4
MIN_LOOP_TOKENS = 10
MIN_ESCAPED_LOOP_TOKENS = 20

# Stricter, for a stretch that speech detection passed over: here silence is what is expected.
STRICT_MIN_AVG_LOGPROB = -0.6
STRICT_MAX_NO_SPEECH_PROBABILITY = 0.3
STRICT_MIN_WORDS = 2

# As sure as Whisper is of clear speech. What it made of a chunk that was not padded to 30 s stands only then: noisy speech it
# hears better with the padding (docs/performance.md).
SURE_AVG_LOGPROB = -0.35

# What Whisper writes when it hears nothing: the subtitles it learnt from end so. Each of these is also said by people:
# a text is only left out with it when the sound speaks against it as well.
SILENCE_PHRASES = frozenset(
    phrase.casefold()
    for phrase in (
        "you",
        "bye",
        "bye bye",
        "so",
        "okay",
        "oh",
        "the end",
        "thank you",
        "thank you very much",
        "thank you so much",
        "thank you for watching",
        "thank you so much for watching",
        "thanks for watching",
        "thanks for listening",
        "please subscribe",
        "see you next time",
        "subtitles by the amara org community",
        "music",
        "applause",
        "silence",
        "Vielen Dank",
        "Untertitel der Amara org Community",
        "Untertitelung des ZDF 2020",
        "Untertitel im Auftrag des ZDF für funk 2017",
        "Sous titres réalisés para la communauté d Amara org",
        "Sous titres réalisés par la communauté d Amara org",
        "Sous titrage Société Radio Canada",
        "Merci d avoir regardé cette vidéo",
        "Subtítulos realizados por la comunidad de Amara org",
        "Gracias por ver el video",
        "Sottotitoli creati dalla comunità Amara org",
        "Legendas pela comunidade Amara org",
        "Ondertiteld door de Amara org gemeenschap",
        "Продолжение следует",
        "Субтитры сделал DimaTorzok",
        "Спасибо за просмотр",
        "ご視聴ありがとうございました",
        "字幕由 Amara org 社区提供",
        "請不吝點贊訂閱轉發打賞支持明鏡與點點欄目",
        "시청해주셔서 감사합니다",
    )
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One attempt at a chunk: without Whisper's marks, and with their mean log-probability."""

    text: str
    tokens: list[int]
    avg_logprob: float
    no_speech_probability: float


NOTHING = Reading("", [], 0.0, 1.0)


def is_good(reading: Reading) -> bool:
    return reading.avg_logprob >= MIN_AVG_LOGPROB and is_terse(reading)


def is_terse(reading: Reading) -> bool:
    """Whether it does not say the same again and again."""
    sure = reading.avg_logprob >= SURE_AVG_LOGPROB
    most = MAX_SURE_COMPRESSION_RATIO if sure else MAX_COMPRESSION_RATIO
    return compression_ratio(reading.text) <= most and not is_loop(reading.tokens)


def is_sure(reading: Reading) -> bool:
    """Whether to believe what was heard in a chunk that was not padded."""
    return is_good(reading) and reading.avg_logprob >= SURE_AVG_LOGPROB


def is_surely_speech(reading: Reading) -> bool:
    """Whether to believe what was heard where speech detection heard nobody."""
    return (
        is_good(reading)
        and reading.avg_logprob >= STRICT_MIN_AVG_LOGPROB
        and reading.no_speech_probability <= STRICT_MAX_NO_SPEECH_PROBABILITY
        and len(reading.tokens) >= STRICT_MIN_WORDS
        and not is_silence_phrase(reading.text)
    )


def repeats(reading: Reading, previous_text: str) -> bool:
    """Whether it says what the chunk before it said, and is not sure of it: announcements do come twice."""
    unsure = (
        reading.avg_logprob < STRICT_MIN_AVG_LOGPROB or reading.no_speech_probability > STRICT_MAX_NO_SPEECH_PROBABILITY
    )
    return unsure and bool(plain := _plain(reading.text)) and plain == _plain(previous_text)


def is_silence(reading: Reading, previous_text: str = "", *, steady: bool = False) -> bool:
    """Whether nobody spoke: the text is no evidence that somebody did, and something else says that nobody did.

    A text of which Whisper is unsure is left out when Whisper hears no speech (openai/whisper's rule) or the sound is as
    `steady` as noise or a tone is; one that loops, repeats the chunk before it or stands for silence, only when both say so.
    """
    no_speech = reading.no_speech_probability > MAX_NO_SPEECH_PROBABILITY
    if reading.avg_logprob < MIN_AVG_LOGPROB:
        return no_speech or steady
    suspicious = is_loop(reading.tokens) or repeats(reading, previous_text) or is_silence_phrase(reading.text)
    return no_speech and steady and suspicious


def best(readings: Sequence[Reading]) -> Reading:
    """The likeliest of readings of which none is good; one that loops only if all do."""
    terse = [reading for reading in readings if is_terse(reading)]
    return max(terse or readings, key=lambda reading: reading.avg_logprob)


def is_loop(tokens: Sequence[int]) -> bool:
    """Whether some run of tokens comes again and again, one right after the other."""
    for length in range(1, len(tokens) // MIN_LOOP_REPEATS + 1):
        same = 0  # tokens in a row that equal the one `length` before them
        escaped, final = (
            max(MIN_LOOP_REPEATS * length, least) - length for least in (MIN_ESCAPED_LOOP_TOKENS, MIN_LOOP_TOKENS)
        )
        for token, earlier in zip(tokens[length:], tokens, strict=False):
            same = same + 1 if token == earlier else 0
            if same >= escaped:
                return True
        if same >= final:
            return True
    return False


def is_silence_phrase(text: str) -> bool:
    plain = _plain(text)
    return not plain or plain in SILENCE_PHRASES


def compression_ratio(text: str) -> float:
    """How repetitive a text is, as openai/whisper measures it."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def _plain(text: str) -> str:
    """Words alone: case, punctuation and spacing differ from one hallucination to the next."""
    return " ".join(re.findall(r"\w+", text.casefold()))
