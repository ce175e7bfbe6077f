"""Filters for hypotheses: accept one, decode the chunk again, or treat the chunk as silence."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

# From openai/whisper, transcribe.py: beyond these, a chunk is decoded again at rising temperatures or treated as
# silence.
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROBABILITY = 0.6

# Genuine speech repeated twice in a chunk has a ratio of about 2.6 and high confidence, and sampling made it worse.
# Three repetitions exceed this limit.
MAX_SURE_COMPRESSION_RATIO = 3.2

# A repeated run of tokens is a loop from this many repetitions and this total length. The compression ratio detects
# only long loops, and people do say "no, no, no, no". A loop that Whisper left on its own must be longer to count: five
# callers' "Hello?" in a row were classified as a loop and decoded by sampling.
MIN_LOOP_REPEATS = 4
MIN_LOOP_TOKENS = 10
MIN_ESCAPED_LOOP_TOKENS = 20

# Stricter limits for a gap in which speech detection found nothing: silence is the expected result there.
STRICT_MIN_AVG_LOGPROB = -0.6
STRICT_MAX_NO_SPEECH_PROBABILITY = 0.3
STRICT_MIN_WORDS = 2

# Typical confidence on clear speech. A hypothesis from a chunk without padding to 30 s is accepted only above it,
# because padding improves accuracy on noisy speech (docs/performance.md).
SURE_AVG_LOGPROB = -0.35

# A part of a word, such as a recording of 0.3 s, is transcribed as "Thank you." or "you" with low confidence.
MIN_PHRASE_SECONDS = 0.5

# Whisper's typical output for silence, learned from the ends of subtitles. People also say these phrases, so a text is
# dropped for one only if the audio indicates silence too.
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
class Hypothesis:
    """One decoding of a chunk, without special tokens, with the mean log-probability of its tokens."""

    text: str
    tokens: list[int]
    avg_logprob: float
    no_speech_probability: float


EMPTY = Hypothesis("", [], 0.0, 1.0)


def is_good(hypothesis: Hypothesis) -> bool:
    return hypothesis.avg_logprob >= MIN_AVG_LOGPROB and is_terse(hypothesis)


def is_terse(hypothesis: Hypothesis) -> bool:
    """Whether the text is free of excessive repetition."""
    sure = hypothesis.avg_logprob >= SURE_AVG_LOGPROB
    most = MAX_SURE_COMPRESSION_RATIO if sure else MAX_COMPRESSION_RATIO
    return compression_ratio(hypothesis.text) <= most and not is_loop(hypothesis.tokens)


def is_varied(hypothesis: Hypothesis) -> bool:
    """Whether to accept a hypothesis from several sentences with long pauses between them: it hardly repeats itself."""
    return is_good(hypothesis) and compression_ratio(hypothesis.text) <= MAX_COMPRESSION_RATIO


def is_sure(hypothesis: Hypothesis) -> bool:
    """Whether to accept a hypothesis from a chunk without full padding."""
    return is_good(hypothesis) and hypothesis.avg_logprob >= SURE_AVG_LOGPROB


def is_surely_speech(hypothesis: Hypothesis) -> bool:
    """Whether to accept a hypothesis from a gap in which speech detection found nothing."""
    return (
        is_good(hypothesis)
        and hypothesis.avg_logprob >= STRICT_MIN_AVG_LOGPROB
        and hypothesis.no_speech_probability <= STRICT_MAX_NO_SPEECH_PROBABILITY
        and len(hypothesis.tokens) >= STRICT_MIN_WORDS
        and not is_silence_phrase(hypothesis.text)
    )


def is_probably_speech(hypothesis: Hypothesis) -> bool:
    """Whether to accept a hypothesis from detected speech that the text of a longer chunk left out."""
    return (
        is_good(hypothesis)
        and hypothesis.no_speech_probability <= MAX_NO_SPEECH_PROBABILITY
        and not is_silence_phrase(hypothesis.text)
    )


def repeats(hypothesis: Hypothesis, previous_text: str) -> bool:
    """Whether the text repeats the previous chunk's with low confidence. Announcements are often genuinely repeated."""
    unsure = (
        hypothesis.avg_logprob < STRICT_MIN_AVG_LOGPROB
        or hypothesis.no_speech_probability > STRICT_MAX_NO_SPEECH_PROBABILITY
    )
    return unsure and bool(plain := _plain(hypothesis.text)) and plain == _plain(previous_text)


def is_silence(
    hypothesis: Hypothesis, previous_text: str = "", *, steady: bool = False, speech_seconds: float = math.inf
) -> bool:
    """Whether to treat the chunk as silence: the text is unreliable, and the audio also indicates that no one speaks.

    Reject a low-confidence text if Whisper's no-speech probability is high (openai/whisper's rule) or the audio is
    `steady` like noise or a tone. Reject a loop, a repetition of the previous chunk or a silence phrase only if both
    hold. A low-confidence silence phrase also needs enough detected speech to say it: `speech_seconds`.
    """
    no_speech = hypothesis.no_speech_probability > MAX_NO_SPEECH_PROBABILITY
    if hypothesis.avg_logprob < MIN_AVG_LOGPROB:
        return no_speech or steady
    if speech_seconds < MIN_PHRASE_SECONDS and hypothesis.avg_logprob < SURE_AVG_LOGPROB:
        return is_silence_phrase(hypothesis.text)
    suspicious = is_loop(hypothesis.tokens) or repeats(hypothesis, previous_text) or is_silence_phrase(hypothesis.text)
    return no_speech and steady and suspicious


def best(hypotheses: Sequence[Hypothesis]) -> Hypothesis:
    """Return the most likely hypothesis, preferring those without excessive repetition."""
    terse = [hypothesis for hypothesis in hypotheses if is_terse(hypothesis)]
    return max(terse or hypotheses, key=lambda hypothesis: hypothesis.avg_logprob)


def is_loop(tokens: Sequence[int]) -> bool:
    """Whether a run of tokens is repeated back to back often enough to be a loop."""
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
    """Compute the compression ratio as openai/whisper does: higher is more repetitive."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def _plain(text: str) -> str:
    """Reduce a text to its words: hallucinations vary in case, punctuation and spacing."""
    return " ".join(re.findall(r"\w+", text.casefold()))
