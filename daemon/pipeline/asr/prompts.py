"""Build Whisper's prompt from a job's hot words, vocabulary and initial prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.schema.options import JobOptions

MAX_PREVIOUS_TOKENS = 223  # Whisper's limit for text before the transcript: 448 positions // 2 - 1


@dataclass(frozen=True, slots=True)
class WhisperPrompt:
    """The prompt, which Whisper treats as preceding text. `left_out` is the number of terms that do not fit."""

    tokens: list[int]
    favoured: str
    left_out: int


def build_prompt(options: JobOptions, encode: Callable[[str], list[int]]) -> WhisperPrompt:
    """Join the hot words, as many whole vocabulary terms as fit, in order, and the end of the initial prompt.

    If there is an initial prompt, hot words and vocabulary get half of the tokens.
    """
    prompt = _encode(options.initial_prompt, encode)
    room = MAX_PREVIOUS_TOKENS // 2 if prompt else MAX_PREVIOUS_TOKENS
    favoured = (options.hotwords or "").strip()
    tokens = _encode(favoured, encode)[:room]
    terms = _new_terms(options.vocabulary, favoured)
    taken = 0
    for term in terms:
        longer = ", ".join((favoured, term)) if favoured else term
        longer_tokens = _encode(longer, encode)
        if len(longer_tokens) > room:
            break
        favoured, tokens, taken = longer, longer_tokens, taken + 1
    return WhisperPrompt(tokens + prompt[-(MAX_PREVIOUS_TOKENS - len(tokens)) :], favoured, len(terms) - taken)


def _encode(text: str | None, encode: Callable[[str], list[int]]) -> list[int]:
    return encode(" " + text.strip()) if text and text.strip() else []


def _new_terms(vocabulary: Sequence[str], favoured: str) -> list[str]:
    """Return the distinct terms that are not hot words. The first spelling of a term wins."""
    known = {part.strip().casefold() for part in favoured.split(",")}
    terms: dict[str, str] = {}
    for term in vocabulary:
        name = " ".join(term.split())
        if name and name.casefold() not in known:
            terms.setdefault(name.casefold(), name)
    return list(terms.values())
