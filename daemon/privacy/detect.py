"""Finds personal data in text as Whisper writes it, including `jane at example dot com` and numbers read digit by digit.

Numbers are classified by check digits and format, not by length alone: python-stdnum validates cards, IBANs and US social
security numbers, Google's libphonenumber validates telephone numbers. In case of doubt, the number is removed.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import translate

from daemon.schema.options import PersonalData

PROFANITY = "profanity"

# Countries whose telephone number formats are tried for a language, in addition to the international format.
PHONE_REGIONS = {
    "de": ("DE", "AT", "CH"),
    "en": ("US", "GB"),
    "es": ("ES", "MX"),
    "fr": ("FR", "BE", "CH"),
    "it": ("IT", "CH"),
    "ja": ("JP",),
    "nl": ("NL", "BE"),
    "pl": ("PL",),
    "pt": ("PT", "BR"),
}

# A host name without `http` or `www` must end in one of these: "end.The" is only a missing space.
_ENDINGS = "com|org|net|edu|gov|mil|int|info|biz|app|dev|io|ai|co|eu|uk|de|fr|es|it|nl|be|ch|at|pl|pt|jp|cn|in|br|us|ca|au|ru|se|no|dk|fi|ie"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{1,8}}"
_SPOKEN_HOST = rf"{_LABEL}(?: dot {_LABEL}){{0,4}} dot (?:{_ENDINGS})"

_EMAIL = re.compile(
    rf"[A-Za-z0-9._%+-]{{1,64}}@{_HOST}|\b[A-Za-z0-9_-]{{1,64}}(?: (?:dot|underscore|dash) [A-Za-z0-9_-]{{1,64}}){{0,4}} at {_SPOKEN_HOST}\b",
    re.IGNORECASE,
)
_URL = re.compile(
    rf"\b(?:https?://|www\.)[^\s<>\"']{{1,2048}}|\b(?:{_LABEL}\.){{1,8}}(?:{_ENDINGS})\b(?:/[^\s<>\"']{{0,2048}})?|\b{_SPOKEN_HOST}\b",
    re.IGNORECASE,
)
_IBAN = re.compile(r"\b[A-Za-z]{2} ?\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_SSN = re.compile(r"\b\d{3}([ -])\d{2}\1\d{4}\b|\b(?:\d[ ,-]{1,3}){8}\d\b(?![ ,-]{1,3}\d)")
# Seven or more digits, in any grouping or read out.
_DIGITS = re.compile(r"(?<![\w.])[+(]{0,2}\d(?:[ ,.()/–-]{0,3}\d){6,}(?!\w)")
_SENTENCE_MARKS = ".,;:!?)]}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Personal data of one kind at the characters `start` to `end` of a text."""

    kind: str
    start: int
    end: int


def find(text: str, kinds: Iterable[PersonalData], language: str | None) -> list[Finding]:
    """Find personal data of these kinds. Findings are in text order and do not overlap."""
    wanted = set(kinds)
    found: list[Finding] = []
    for kind, spans in _FINDERS.items():  # most specific first: a finder does not see the findings of earlier ones
        if kind not in wanted:
            continue
        for start, end in spans(text, language):
            found.append(Finding(kind, start, end))
            text = text[:start] + "\0" * (end - start) + text[end:]
    return sorted(found, key=lambda finding: finding.start)


def find_words(text: str, patterns: Iterable[str]) -> list[Finding]:
    """Find whole words that match a pattern; `*` stands for any letters."""
    alternatives = "|".join(translate(pattern.casefold()) for pattern in patterns)
    if not alternatives:
        return []
    matches = re.compile(alternatives).match
    words = re.finditer(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text)
    return [Finding(PROFANITY, word.start(), word.end()) for word in words if matches(word[0].casefold())]


def _emails(text: str, _: str | None) -> Iterator[tuple[int, int]]:
    for match in _EMAIL.finditer(text):
        yield match.span()


def _urls(text: str, _: str | None) -> Iterator[tuple[int, int]]:
    for match in _URL.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip(_SENTENCE_MARKS))


def _ibans(text: str, _: str | None) -> Iterator[tuple[int, int]]:
    from stdnum import iban  # imported here and below, so that only jobs that need it pay for the import

    at = 0
    while match := _IBAN.search(text, at):
        # Words after the number also match the pattern: try shorter ends.
        ends = [end for end in range(match.end(), match.start() + 14, -1) if not text[end : end + 1].isalnum()]
        at = next((end for end in ends if iban.is_valid(text[match.start() : end], check_country=False)), 0)
        if at:
            yield match.start(), at
        at = at or match.start() + 2


def _cards(text: str, _: str | None) -> Iterator[tuple[int, int]]:
    from stdnum import luhn

    for match in _DIGITS.finditer(text):
        at = match.start()
        while at < match.end():
            end = at
            if (
                text[at] in "23456" and not text[at - 1 : at].isdecimal()
            ):  # first digits of card numbers, at the start of a group
                # 16 digits first; several numbers may follow each other.
                ends = [_after_digits(text, at, count) for count in (16, 15, 19, 18, 17, 14, 13)]
                fits = (end for end in ends if end <= match.end() and not text[end : end + 1].isdecimal())
                end = next((end for end in fits if luhn.is_valid(_digits(text[at:end]))), at)
            if end > at:
                yield at, end
            at = max(end, at + 1)


def _ssns(text: str, _: str | None) -> Iterator[tuple[int, int]]:
    from stdnum.us import ssn

    for match in _SSN.finditer(text):
        goes_on = text[: match.start()].rstrip(" ,-")[-1:].isdecimal()  # digits before it: part of a longer number
        if match[1] or (not goes_on and ssn.is_valid(_digits(match[0]))):  # in the unambiguous format, or valid
            yield match.span()


def _phones(text: str, language: str | None) -> Iterator[tuple[int, int]]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    spans: list[tuple[int, int]] = []
    for region in (None, *PHONE_REGIONS.get(language or "", ())):
        spans += [(match.start, match.end) for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID)]
    for match in _DIGITS.finditer(text):
        digits = _digits(match[0])
        dialled = match[0][0] in "+(" or digits[0] == "0"
        read_out = re.fullmatch(r"\d(?:[ ,.-]{1,3}\d)*", match[0]) is not None
        if 7 <= len(digits) <= 15 and (dialled or read_out):
            spans.append(match.span())
    yield from _joined(spans)


def _joined(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sort the spans and merge overlapping ones."""
    current: tuple[int, int] | None = None
    for start, end in sorted(spans):
        if current and start < current[1]:
            current = current[0], max(current[1], end)
            continue
        if current:
            yield current
        current = start, end
    if current:
        yield current


def _after_digits(text: str, start: int, count: int) -> int:
    """Return the position after `count` digits; a position beyond the text if there are fewer."""
    for position in range(start, len(text)):
        count -= text[position].isdecimal()
        if not count:
            return position + 1
    return len(text) + 1


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdecimal())


_FINDERS: dict[PersonalData, Callable[[str, str | None], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "url": _urls,
    "iban": _ibans,
    "ssn": _ssns,
    "card": _cards,
    "phone": _phones,
}
