"""Spelled-out numbers: detect numerals, and check that a text decoded without them omits no number.

whisperx suppresses numeral tokens in its only pass, which loses numbers (whisperX #917).
"""

import re
from collections.abc import Callable
from difflib import SequenceMatcher

SIGNS = "%‰$€£¥₹¢"


def has_numerals(text: str) -> bool:
    """Whether the text contains digits or a sign used with them. Chinese numerals count as words."""
    return any(char.isdecimal() or char in SIGNS for char in text)


def keeps_numbers(digits: str, words: str, split: Callable[[str], list[str]]) -> bool:
    """Whether `words` has no numerals, a word for each number in `digits`, and at least as many words.

    An omitted number appears as a gap between words that both texts share.
    """
    before, after = _plain(split(digits)), _plain(split(words))
    for operation, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        numbers = sum(has_numerals(word) for word in before[start:end])
        if operation != "equal" and new_end - new_start < numbers:
            return False
    return len(after) >= len(before) and not has_numerals(words)


def _plain(words: list[str]) -> list[str]:
    """Normalize words for comparison: drop case and punctuation, keep the signs used with numbers."""
    plain = (re.sub(rf"[^\w{SIGNS}]", "", word.casefold()) for word in words)
    return [word for word in plain if word]
