"""Outputs: the JSON document against its public schema, the Markdown document against a CommonMark parser."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from daemon.config import Format
from daemon.outputs import render
from daemon.outputs.json_document import json_schema
from daemon.outputs.markdown import clock
from daemon.transcript import Models, Segment, Transcript, TranscriptWarning, Word


def transcript(*segments: Segment, warnings: tuple[TranscriptWarning, ...] = ()) -> Transcript:
    return Transcript(
        schema_version="1.0",
        job_id="job-1",
        task="transcribe",
        language="en",
        language_probability=0.98765,
        language_probabilities={"en": 0.98765},
        duration_seconds=12.34567,
        speakers=sorted({segment.speaker for segment in segments if segment.speaker}),
        speaker_embeddings=None,
        segments=list(segments),
        models=Models(
            asr="large-v3", vad="pyannote", alignment=None, diarization=None, device="cpu", compute_type="int8"
        ),
        timings_seconds={"asr": 1.23456},
        redactions={},
        warnings=list(warnings),
    )


def segment(
    text: str, start: float = 0, end: float = 5, speaker: str | None = None, words: tuple[Word, ...] = ()
) -> Segment:
    return Segment(
        start=start,
        end=end,
        text=text,
        speaker=speaker,
        overlap=None,
        confidence=None,
        language="en",
        avg_logprob=None,
        words=list(words),
    )


def word(text: str, start: float = 0, speaker: str | None = None) -> Word:
    return Word(word=text, start=start, end=start + 0.5, score=None, speaker=speaker, overlap=None)


def markdown(document: Transcript) -> str:
    return render(document, ["md"])[0].body.decode()


# --- the registry -------------------------------------------------------------------------------------------------


def test_every_format_has_a_renderer_and_files_keep_the_order_asked_for() -> None:
    formats = get_args(Format)
    assert len(render(transcript(), formats)) == len(formats)
    files = render(transcript(), ["md", "json", "md"])
    assert [(file.name, file.content_type) for file in files] == [
        ("transcript.md", "text/markdown; charset=utf-8"),
        ("transcript.json", "application/json"),
    ]


# --- arbitrary transcripts ----------------------------------------------------------------------------------------

HOSTILE = [
    *"\\`*_{}[]()<>#+-.!|~&=:;\"'$^@/\n\r\t\0\x0b\x1f\x7f\x85\u2028\u2029\u00a0\ufeff 019azé漢²١",
    *("# ", "- ", "1. ", "1) ", "123456789. ", "1234567890. ", "> ", "---", "===", "***", "* * *", "```", "~~~", "~~"),
    *("**", "__", "](", "![", "[a](b)", "[a]: b", "[^1]: ", "[ ] ", "<b>", "</p>", "<!--", "<?", "<http://a.b>"),
    *("&amp;", "&#35;", "&#x23;", "&copy", "AT&T", "    ", "  \n", "\\\n", "SPEAKER_00", "|-|", "it's", "snake_case_"),
]
TEXTS = st.lists(st.sampled_from(HOSTILE) | st.characters(codec="utf-8"), max_size=8).map("".join)
SPEAKERS = st.none() | st.sampled_from(["SPEAKER_00", "SPEAKER_01"]) | TEXTS
TIMES = st.floats(0, 400_000, allow_nan=False)
SCORES = st.none() | st.floats(-10, 1)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    speakers = draw(st.sampled_from([SPEAKERS, st.none()]))
    words = st.builds(Word, word=TEXTS, start=TIMES, end=TIMES, score=SCORES, speaker=speakers)
    segments = st.builds(
        Segment,
        start=TIMES,
        end=TIMES,
        text=TEXTS,
        speaker=speakers,
        confidence=st.none() | st.floats(0, 1),
        avg_logprob=SCORES,
        words=st.lists(words, max_size=3),
    )
    warnings = st.builds(TranscriptWarning, code=TEXTS, stage=TEXTS, message=TEXTS)
    return draw(
        st.builds(
            Transcript,
            schema_version=st.just("1.0"),
            job_id=TEXTS,
            language_probability=SCORES,
            speakers=st.lists(TEXTS, max_size=2),
            speaker_embeddings=st.none() | st.dictionaries(TEXTS, st.lists(st.floats(-1, 1), max_size=3), max_size=2),
            segments=st.lists(segments, max_size=3),
            duration_seconds=TIMES,
            timings_seconds=st.dictionaries(TEXTS, TIMES, max_size=2),
            warnings=st.lists(warnings, max_size=2),
        )
    )


# --- JSON ---------------------------------------------------------------------------------------------------------


@given(transcripts())
@settings(max_examples=40, deadline=None)
def test_json_matches_the_public_schema_and_reads_back(document: Transcript) -> None:
    body = render(document, ["json"])[0].body
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(body))
    assert Transcript.model_validate_json(body) == document


def test_json_has_every_key_and_rounds_times_to_milliseconds() -> None:
    spoken = segment("Grüße", 1.00049, 2.0006, words=(word("Grüße", 1.00051),))
    body = render(transcript(spoken), ["json"])[0].body
    assert "Grüße".encode() in body
    document = json.loads(body)
    assert list(document) == list(Transcript.model_fields)
    assert document["duration_seconds"] == 12.346
    assert document["timings_seconds"] == {"asr": 1.235}
    assert document["segments"] == [
        {
            "start": 1.0,
            "end": 2.001,
            "text": "Grüße",
            "speaker": None,
            "overlap": None,
            "confidence": None,
            "language": "en",
            "avg_logprob": None,
            "words": [{"word": "Grüße", "start": 1.001, "end": 1.501, "score": None, "speaker": None, "overlap": None}],
        }
    ]


def test_json_writes_null_for_a_score_that_is_not_a_number() -> None:
    spoken = segment("a").model_copy(update={"avg_logprob": float("nan")})
    document = json.loads(render(transcript(spoken), ["json"])[0].body)
    assert document["segments"][0]["avg_logprob"] is None


def test_schema_requires_every_key_and_leaves_room_for_new_ones() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document: dict[str, Any] = json.loads(render(transcript(segment("a")), ["json"])[0].body)
    validator.validate(document | {"added_in_a_later_release": 1})
    for key in document:
        assert not validator.is_valid({name: value for name, value in document.items() if name != key}), key
    assert not validator.is_valid(document | {"duration_seconds": "12"})


# --- Markdown: the shape ------------------------------------------------------------------------------------------


def test_markdown_with_speakers() -> None:
    document = transcript(
        segment("Hello, welcome", 0.4, 5.9, "SPEAKER_00", (word("Hello,", 0.4, "SPEAKER_00"), word("welcome", 1.9))),
        segment("to today's interview.", 6, 8, "SPEAKER_00"),
        segment("Thank you.", 8, 3661, "SPEAKER_01", (word("Thank", 8, "SPEAKER_01"), word("you.", 9, "SPEAKER_00"))),
        warnings=(TranscriptWarning(code="alignment_fallback", stage="align", message="No model for xx."),),
    )
    assert (
        markdown(document)
        == """\
# Full Transcript

**SPEAKER_00:** Hello, welcome to today's interview.

**SPEAKER_01:** Thank you.

# Timestamped Transcript

## Segment 1: [00:00:00 - 00:00:05] (SPEAKER_00)

Hello, welcome

### Word-level timestamps

**SPEAKER_00:**
- Hello, @ 00:00:00
- welcome @ 00:00:01

## Segment 2: [00:00:06 - 00:00:08] (SPEAKER_00)

to today's interview.

## Segment 3: [00:00:08 - 01:01:01] (SPEAKER_01)

Thank you.

### Word-level timestamps

**SPEAKER_01:**
- Thank @ 00:00:08

**SPEAKER_00:**
- you. @ 00:00:09

# Notes

- alignment_fallback: No model for xx.
"""
    )


def test_markdown_without_speakers_breaks_paragraphs_at_pauses() -> None:
    document = transcript(
        segment("One", 0, 1, words=(word("One"),)), segment("two.", 2.999, 4), segment("Three.", 6, 7.5)
    )
    assert (
        markdown(document)
        == """\
# Full Transcript

One two.

Three.

# Timestamped Transcript

## Segment 1: [00:00:00 - 00:00:01]

One

### Word-level timestamps

- One @ 00:00:00

## Segment 2: [00:00:02 - 00:00:04]

two.

## Segment 3: [00:00:06 - 00:00:07]

Three.
"""
    )


def test_markdown_of_silence() -> None:
    silence = "# Full Transcript\n\n*No speech was found.*\n\n# Timestamped Transcript\n\n*No speech was found.*\n"
    assert markdown(transcript()) == silence


def test_markdown_names_the_unknown_speaker_when_others_are_known() -> None:
    text = markdown(transcript(segment("Yes.", speaker="SPEAKER_00"), segment("No.", speaker=None)))
    assert "**UNKNOWN:** No." in text
    assert "## Segment 2: [00:00:00 - 00:00:05] (UNKNOWN)" in text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "00:00:00"), (59.999, "00:00:59"), (3600, "01:00:00"), (359_999.9, "99:59:59"), (360_000, "100:00:00")],
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


# --- Markdown: text is never markup --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "It's 5.30 p.m., isn't it? \"Yes!\" (Really.)",
        "AT&T, C++ and C#, $5 + $10 = $15; 50% off: a/b - c",
        "mail me @ home {now} ^^ snake_case SPEAKER_00",
        "1.5 million; 2024 was 3) 4.",
        "“Ça va?” — très bien… 漢字。",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert f"\n\n{text}\n" in markdown(transcript(segment(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# one", "\\# one"),
        ("- one", "\\- one"),
        ("1. one", "1\\. one"),
        ("7)", "7\\)"),
        ("2024) one", "2024\\) one"),
        ("> one", "\\> one"),
        ("[Music] _one_ *two* <b>", "\\[Music] \\_one\\_ \\*two\\* \\<b>"),
        ("&lt; `a` a\\b ~~c~~ |", "\\&lt; \\`a\\` a\\\\b \\~\\~c\\~\\~ \\|"),
        ("one\r\n\n# two\x00\u2028three", "one # two three"),
    ],
)
def test_markup_in_text_is_escaped(text: str, expected: str) -> None:
    assert f"\n\n{expected}\n" in markdown(transcript(segment(text)))


def plain(text: str) -> str:
    """What a reader should see of a text: an independent statement of the cleaning rule."""
    visible = "".join(
        " " if char in "\x7f\u2028\u2029" or ord(char) < 32 or 0x80 <= ord(char) < 0xA0 else char for char in text
    )
    return " ".join(visible.split())


def expected_blocks(document: Transcript) -> Iterator[tuple[str, str]]:
    diarized = any(s.speaker or any(w.speaker for w in s.words) for s in document.segments)

    def name(speaker: str | None) -> str:
        return plain(speaker or "") or "UNKNOWN"

    yield "h1", "Full Transcript"
    spoken = [s for s in document.segments if plain(s.text)]
    if not spoken:
        yield "p", "<em>No speech was found.</em>"
    elif diarized:
        for speaker, turn in groupby(spoken, key=lambda s: s.speaker):
            yield "p", f"<strong>{name(speaker)}:</strong> " + " ".join(plain(s.text) for s in turn)
    else:
        paragraph = ""
        for previous, s in zip([None, *spoken], spoken, strict=False):
            if previous and s.start - previous.end >= 2:
                yield "p", paragraph
                paragraph = ""
            paragraph = f"{paragraph} {plain(s.text)}".strip()
        yield "p", paragraph
    yield "h1", "Timestamped Transcript"
    if not document.segments:
        yield "p", "<em>No speech was found.</em>"
    for number, s in enumerate(document.segments, 1):
        yield (
            "h2",
            f"Segment {number}: [{clock(s.start)} - {clock(s.end)}]" + (f" ({name(s.speaker)})" if diarized else ""),
        )
        if plain(s.text):
            yield "p", plain(s.text)
        words = [w for w in s.words if plain(w.word)]
        if words:
            yield "h3", "Word-level timestamps"
        for speaker, group in groupby(words, key=lambda w: w.speaker or s.speaker):
            if diarized:
                yield "p", f"<strong>{name(speaker)}:</strong>"
            yield from (("li", f"{plain(w.word)} @ {clock(w.start)}") for w in group)
    if document.warnings:
        yield "h1", "Notes"
        yield from (("li", f"{plain(w.code)}: {plain(w.message)}".strip()) for w in document.warnings)


MARKS = {"strong_open": "<strong>", "strong_close": "</strong>", "em_open": "<em>", "em_close": "</em>"}


def parsed_blocks(tokens: list[Token]) -> Iterator[tuple[str, str]]:
    """Each block's kind and text; any token that our own shape has no use for is an error."""
    in_item = False
    kind = ""
    for token in tokens:
        match token.type:
            case "heading_open":
                kind = token.tag
            case "paragraph_open":
                kind = "li" if in_item else "p"
            case "list_item_open" | "list_item_close":
                assert token.level == 1, "a list in a list"
                in_item = token.type == "list_item_open"
            case "inline":
                children = token.children or []
                unknown = {child.type for child in children} - {"text", "text_special", *MARKS}
                assert not unknown, unknown
                yield kind, "".join(MARKS.get(child.type, child.content) for child in children)
            case "heading_close" | "paragraph_close" | "bullet_list_open" | "bullet_list_close":
                pass
            case other:
                pytest.fail(f"{other} in {token.content!r}")


@given(transcripts())
@example(transcript(segment("- - -", speaker="**", words=(word("#", speaker=" \t"), word("1.", speaker="\\")))))
@example(transcript(segment("x](y) \\", speaker="a](b"), segment("[a]: b", speaker="")))
@settings(max_examples=150, deadline=None)
def test_a_commonmark_parser_sees_our_structure_and_the_exact_text(document: Transcript) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    assert list(parsed_blocks(parser.parse(markdown(document)))) == list(expected_blocks(document))
