"""Detection of sentence ends in the scripts that Whisper writes."""

import re

_SENTENCE_END = re.compile(r"""[.?!…。？！｡؟۔।॥։።]["'”’»)\]}」』）》〉】]*$""")
# Full stops that do not end a sentence: titles, a few Latin abbreviations, and initials.
_ABBREVIATION = re.compile(r"^\W*(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|e\.g|i\.e|[^\W\d_](?:\.[^\W\d_])*)\.$", re.IGNORECASE)


def ends_sentence(word: str) -> bool:
    """Whether a word, including its punctuation, ends a sentence."""
    word = word.strip()
    return bool(_SENTENCE_END.search(word)) and not (word != "I." and _ABBREVIATION.match(word))
