"""What a job tells Whisper beforehand: words to favour, and text that sets style and spelling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.options import JobOptions

MAX_PREVIOUS_TOKENS = 223  # of Whisper's 448 positions, what may come before the transcript: 448 // 2 - 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """As Whisper takes it: as if it had been said before. `left_out` counts the terms that found no room."""

    tokens: list[int]
    favoured: str
    left_out: int


def build_prompt(options: JobOptions, encode: Callable[[str], list[int]]) -> Prompt:
    """Hot words, then as many whole terms of the vocabulary as fit, in their order; then the initial prompt's end.

    With an initial prompt, what is favoured has half of the room.
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
    return Prompt(tokens + prompt[-(MAX_PREVIOUS_TOKENS - len(tokens)) :], favoured, len(terms) - taken)


def _encode(text: str | None, encode: Callable[[str], list[int]]) -> list[int]:
    return encode(" " + text.strip()) if text and text.strip() else []


def _new_terms(vocabulary: Sequence[str], favoured: str) -> list[str]:
    """The terms that differ, and do not stand among the hot words already. The first spelling of a term counts."""
    known = {part.strip().casefold() for part in favoured.split(",")}
    terms: dict[str, str] = {}
    for term in vocabulary:
        name = " ".join(term.split())
        if name and name.casefold() not in known:
            terms.setdefault(name.casefold(), name)
    return list(terms.values())
