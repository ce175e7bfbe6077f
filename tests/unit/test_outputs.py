"""Outputs: the JSON document checked against its public schema, the Markdown document with a CommonMark parser."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import example, given, settings
from markdown_it import MarkdownIt
from markdown_it.token import Token

from daemon.outputs import render
from daemon.outputs.json_document import json_schema
from daemon.outputs.markdown import clock
from daemon.schema.options import Format
from daemon.schema.transcript import Transcript, TranscriptWarning
from tests.support.transcripts import DIRECTION_CONTROLS, expected_blocks, segment, transcript, transcripts, word


def markdown(document: Transcript) -> str:
    return render(document, ["md"])[0].body.decode()


# --- the registry -------------------------------------------------------------------------------------------------


def test_every_format_has_a_renderer_and_files_keep_the_requested_order() -> None:
    formats = get_args(Format)
    assert len(render(transcript(), formats)) == len(formats)
    files = render(transcript(), ["md", "json", "md"])
    assert [(file.name, file.content_type) for file in files] == [
        ("transcript.md", "text/markdown; charset=utf-8"),
        ("transcript.json", "application/json"),
    ]


# --- JSON ---------------------------------------------------------------------------------------------------------


@given(transcripts())
@settings(max_examples=40, deadline=None)
def test_json_matches_the_public_schema_and_round_trips(document: Transcript) -> None:
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


def test_schema_requires_every_key_and_allows_new_ones() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document: dict[str, Any] = json.loads(render(transcript(segment("a")), ["json"])[0].body)
    validator.validate(document | {"added_in_a_later_release": 1})
    for key in document:
        assert not validator.is_valid({name: value for name, value in document.items() if name != key}), key
    assert not validator.is_valid(document | {"duration_seconds": "12"})


# --- Markdown: structure ------------------------------------------------------------------------------------------


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
def test_ordinary_text_is_unchanged(text: str) -> None:
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


MARKS = {"strong_open": "<strong>", "strong_close": "</strong>", "em_open": "<em>", "em_close": "</em>"}


def parsed_blocks(tokens: list[Token]) -> Iterator[tuple[str, str]]:
    """Return each block's kind and text; fail on tokens that our documents never use."""
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
def test_commonmark_parser_finds_our_structure_and_the_exact_text(document: Transcript) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    assert list(parsed_blocks(parser.parse(markdown(document)))) == list(expected_blocks(document))


@pytest.mark.parametrize("format_", get_args(Format))
def test_no_text_can_reverse_what_is_read(format_: Format) -> None:
    """A "right-to-left override" shows "gpj.exe" as "exe.jpg"."""
    hostile = "one" + DIRECTION_CONTROLS + "two"
    document = transcript(segment(f"{hostile} three", words=(word(hostile), word("three", 1))))
    (file,) = render(document, [format_])
    text = file.body.decode()
    assert "onetwo" in text
    assert not {*DIRECTION_CONTROLS} & {*text}
    assert not any(f"\\u{ord(char):04x}" in text for char in DIRECTION_CONTROLS)


@pytest.mark.parametrize("text", ["=1+1", "+49 30 1", "-5", "@SUM(A1)", "\uff1d1", "\t=1", "\u202e=1", " =1"])
def test_no_text_is_a_formula_of_a_spreadsheet(text: str) -> None:
    (file,) = render(transcript(segment(text, speaker=text)), ["tsv"])
    _, row = file.body.decode().splitlines()
    assert all(cell.startswith("'") for cell in row.split("\t")[2:])


def test_other_texts_of_the_table_are_unchanged() -> None:
    (file,) = render(transcript(segment("a = b - c", speaker="SPEAKER_00")), ["tsv"])
    assert file.body.decode().splitlines()[1].split("\t")[2:] == ["a = b - c", "SPEAKER_00"]
