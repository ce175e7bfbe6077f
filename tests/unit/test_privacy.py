"""Which content is redacted in a transcript, which is not, and that no output retains it."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import Settings
from daemon.outputs import render
from daemon.privacy import protect
from daemon.privacy.detect import Finding, find, find_words
from daemon.schema.options import Format, PersonalData
from daemon.schema.transcript import Segment, Transcript, Word
from tests.support.transcripts import transcript

ALL: tuple[PersonalData, ...] = ("email", "phone", "card", "iban", "ssn", "url")
PROFANE: tuple[str, ...] = Settings.model_fields["profanity_words"].default


def said(*texts: str, speakers: tuple[str, ...] = (), pause_seconds: float = 0.5) -> Transcript:
    """Return a transcript with one segment per text and one word per second."""
    segments = []
    now = 0.0
    for number, text in enumerate(texts):
        speaker = speakers[number] if speakers else None
        words = [
            Word(word=word, start=now + index, end=now + index + 1, score=0.9, speaker=speaker, overlap=None)
            for index, word in enumerate(text.split())
        ]
        end = now + len(words)
        segments.append(
            Segment(
                start=now,
                end=end,
                text=text,
                speaker=speaker,
                avg_logprob=-0.1,
                words=words,
                overlap=None,
                confidence=None,
                language="en",
            )
        )
        now = end + pause_seconds
    return transcript(*segments)


def texts(result: Transcript) -> list[str]:
    return [segment.text for segment in result.segments]


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("email", "Write to jane.doe+x@mail.example.co.uk, please.", "jane.doe+x@mail.example.co.uk"),
        ("email", "It is jane dot doe at example dot com.", "jane dot doe at example dot com"),
        ("url", "See https://example.com/a?b=c#d. Thanks", "https://example.com/a?b=c#d"),
        ("url", "Go to www.example.travel now", "www.example.travel"),
        ("url", "It is on example.org/help, I think", "example.org/help"),
        ("url", "Visit shop dot example dot com", "shop dot example dot com"),
        ("card", "My card is 4111 1111 1111 1111, thanks.", "4111 1111 1111 1111"),
        ("card", "4111-1111-1111-1111", "4111-1111-1111-1111"),
        (
            "card",
            "It is 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 and no more",
            "4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
        ),
        ("iban", "To DE89 3704 0044 0532 0130 00 and BIC", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432.", "GB82WEST12345698765432"),
        ("ssn", "It is 536-90-4399, sir.", "536-90-4399"),
        ("ssn", "5 3 6 9 0 4 3 9 9", "5 3 6 9 0 4 3 9 9"),
        ("phone", "Call +44 20 7946 0958 today", "+44 20 7946 0958"),
        ("phone", "Call (415) 555-2671 or write", "(415) 555-2671"),
        ("phone", "It is 4 1 5 5 5 5 2 6 7 1.", "4 1 5 5 5 5 2 6 7 1"),
        ("phone", "Dial 030 901820 in Berlin", "030 901820"),
    ],
)
def test_is_redacted(kind: PersonalData, text: str, found: str) -> None:
    findings = find(text, ALL, "en")
    assert [(each.kind, text[each.start : each.end]) for each in findings] == [(kind, found)]


@pytest.mark.parametrize(
    "text",
    [
        "In 2019, 2020, 2021 and 2022 we grew by 1,250,000 dollars.",
        "It costs 4111 1111 1111 1112 points.",  # not a card number: the check digit is wrong
        "We met at home dot and dash included.",
        "End.The next sentence; e.g. this, i.e. that.",
        "Version 3.11.4 of 2026-11-22, at 10:30:45.",
        "Pi is 3.14159265358979.",
        "XX00 1234 5678 9012 345",
    ],
)
def test_is_kept(text: str) -> None:
    assert find(text, ALL, "en") == []


def test_only_requested_kinds_are_redacted() -> None:
    text = "jane@example.com or 415-555-2671"
    assert [each.kind for each in find(text, ["phone"], "en")] == ["phone"]


def test_numbers_are_read_as_the_language_writes_them() -> None:
    text = "Unter 0151 23456789 erreichbar"
    assert [text[each.start : each.end] for each in find(text, ["phone"], "de")] == ["0151 23456789"]


def test_profane_words_are_whole_words() -> None:
    text = "Fucking scunthorpe! Shit, the shiitake. Motherfucker's"
    found = [text[each.start : each.end] for each in find_words(text, PROFANE)]
    assert found == ["Fucking", "Shit", "Motherfucker's"]
    assert find_words(text, ()) == []


def test_redacted_words_become_one_with_their_time() -> None:
    result = protect(said("Write to jane dot doe at example dot com. Thanks"), ALL, ())
    assert texts(result) == ["Write to [EMAIL]. Thanks"]
    assert [(word.word, word.start, word.end, word.score) for word in result.segments[0].words] == [
        ("Write", 0, 1, 0.9),
        ("to", 1, 2, 0.9),
        ("[EMAIL].", 2, 9, None),
        ("Thanks", 9, 10, 0.9),
    ]
    assert result.redactions == {"email": 1}


def test_number_dictated_across_two_segments_is_one() -> None:
    result = protect(said("It is 4111 1111", "1111 1111. Right."), ["card"], ())
    assert texts(result) == ["It is [CARD]", "[CARD]. Right."]
    assert result.redactions == {"card": 1}


@pytest.mark.parametrize("change", [{"speakers": ("A", "B")}, {"pause_seconds": 10.0}])
def test_numbers_of_two_speakers_or_after_a_pause_are_two(change: dict[str, object]) -> None:
    before = said("It is 4111 1111", "1111 1111. Right.", **change)  # type: ignore[arg-type]
    assert protect(before, ["card"], ()).segments == before.segments


def test_profanity_is_masked_and_counted() -> None:
    result = protect(said("Oh shit, jane@fuck.com"), ["email"], PROFANE)
    assert texts(result) == ["Oh s***, [EMAIL]"]
    assert [word.word for word in result.segments[0].words] == ["Oh", "s***,", "[EMAIL]"]
    assert result.redactions == {"email": 1, "profanity": 1}


def test_words_that_do_not_match_the_text_are_omitted() -> None:
    before = said("call 415-555-2671")
    other = before.segments[0].model_copy(update={"text": "Call 415-555-2671 now"})
    result = protect(before.model_copy(update={"segments": [other]}), ["phone"], ())
    assert (texts(result), result.segments[0].words) == (["Call [PHONE] now"], [])


def test_without_words_only_the_text_is_changed() -> None:
    before = said("mail jane@example.com")
    bare = before.segments[0].model_copy(update={"words": []})
    assert texts(protect(before.model_copy(update={"segments": [bare]}), ["email"], ())) == ["mail [EMAIL]"]


SECRETS = ["jane@example.com", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "536-90-4399", "www.example.com"]


@given(
    st.lists(
        st.lists(st.sampled_from([*SECRETS, "well", "and", "so.", "I", "said,"]), min_size=1, max_size=6), max_size=5
    )
)
def test_no_output_contains_redacted_content(spoken: list[list[str]]) -> None:
    before = said(*(" ".join(parts) for parts in spoken))
    result = protect(before, ALL, PROFANE)
    assert sum(result.redactions.values()) == sum(part in SECRETS for parts in spoken for part in parts)
    formats: tuple[Format, ...] = get_args(Format)
    for file in render(result, formats):
        for secret in SECRETS:
            assert secret not in file.body.decode()
            assert secret.split()[-1] not in file.body.decode().split()
    for segment in result.segments:
        assert " ".join(word.word for word in segment.words) == segment.text
        assert all(word.start < word.end for word in segment.words)


@given(st.text(max_size=300), st.booleans())
def test_any_text_is_accepted(text: str, with_profanity: bool) -> None:
    findings: list[Finding] = find(text, ALL, "en")
    assert all(0 <= each.start < each.end <= len(text) for each in findings)
    before = said(text)
    after = protect(before, ALL, PROFANE if with_profanity else ())
    if not after.redactions:
        assert after.segments == before.segments
