"""Numbers in words: Whisper made to write without digits, and the proof that it left no number out.

whisperx suppresses the tokens with digits in the only pass it makes, and numbers get lost (whisperX #917).
"""

import re
from collections.abc import Callable
from difflib import SequenceMatcher

SIGNS = "%‰$€£¥₹¢"


def has_numerals(text: str) -> bool:
    """Whether digits or a sign that goes with them stand in the text. Chinese numbers are words."""
    return any(char.isdecimal() or char in SIGNS for char in text)


def keeps_numbers(digits: str, words: str, split: Callable[[str], list[str]]) -> bool:
    """Whether the second text, without numerals, has words in the place of each number of the first, and no fewer words.

    A number that is gone shows as a gap between words that both have.
    """
    before, after = _plain(split(digits)), _plain(split(words))
    for operation, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        numbers = sum(has_numerals(word) for word in before[start:end])
        if operation != "equal" and new_end - new_start < numbers:
            return False
    return len(after) >= len(before) and not has_numerals(words)


def _plain(words: list[str]) -> list[str]:
    """Words to compare: without case and punctuation, but with the signs that go with numbers."""
    plain = (re.sub(rf"[^\w{SIGNS}]", "", word.casefold()) for word in words)
    return [word for word in plain if word]
