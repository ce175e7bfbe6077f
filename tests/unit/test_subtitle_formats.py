"""srt, vtt, ass, tsv and txt as third-party parsers read them, for arbitrary text."""

import datetime
import html
import re
from collections.abc import Callable
from itertools import takewhile

import pysubs2
import pytest
import srt
import webvtt
from hypothesis import example, given, settings

from daemon.outputs import Presentation, render
from daemon.outputs.subtitles.cues import Cue, spell, stamp
from daemon.outputs.subtitles.layout import lay_out
from daemon.outputs.text import clean
from daemon.schema.options import Format, SubtitleOptions
from daemon.schema.transcript import Segment, Transcript, Word
from tests.support.transcripts import expected_blocks, in_language, segment, transcript, transcripts

HOSTILE = [
    "{\\an8}{b} \\N \\h <b>bold</b> <font color=red> & &amp; &lt; --> ->",
    "a\n\n7\n00:00:01,000 --> 00:00:02,000\nb\r\rWEBVTT\u2028NOTE x\0",
    "1\n\n2",
    "NOTE\n\nSTYLE\n\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,x",
    "</v><v Somebody else>it was not me</v><00:00:01.000>",
    '"quoted", comma;\tsemi',
]
NO_SPEECH = "<em>No speech was found.</em>"  # in Markdown
TWINS = str.maketrans("<>{}\\", "＜＞｛｝＼")
BRACES = str.maketrans("{}\\", "｛｝＼")


def body(document: Transcript, name: Format, **options: object) -> str:
    return render(document, [name], Presentation(SubtitleOptions.model_validate(options)))[0].body.decode()


def cues_of(document: Transcript, inline_labels: bool) -> list[Cue]:
    return lay_out(document, SubtitleOptions(), inline_labels)


def text_of(cue: Cue) -> str:
    return spell(cue, lambda word: word.text)


def hostile(index: int) -> Transcript:
    return transcript(segment(HOSTILE[index], 1, 9, f"SPEAKER,\n<{HOSTILE[index]}>"))


def with_hostile_examples(test: Callable[..., None]) -> Callable[..., None]:
    for index in range(len(HOSTILE)):
        test = example(hostile(index))(test)
    return test


# --- what the parsers read ------------------------------------------------------------------------------------------


def within_a_day(document: Transcript) -> Transcript:
    """Limit times to a day, because the parsers accept only two-digit hours; `test_stamp` and the test below go
    beyond."""

    def fold(seconds: float) -> float:
        return seconds % 80_000

    return document.model_copy(
        update={
            "duration_seconds": fold(document.duration_seconds),
            "segments": [
                one.model_copy(
                    update={
                        "start": fold(one.start),
                        "end": fold(one.end),
                        "words": [
                            word.model_copy(update={"start": fold(word.start), "end": fold(word.end)})
                            for word in one.words
                        ],
                    }
                )
                for one in document.segments
            ],
        }
    )


@given(transcripts())
@with_hostile_examples
@settings(max_examples=60, deadline=None)
def test_srt_round_trips(document: Transcript) -> None:
    def milliseconds(time: datetime.timedelta) -> int:
        return round(time.total_seconds() * 1000)

    read = list(srt.parse(body(document, "srt"), ignore_errors=False))
    cues = cues_of(document, inline_labels=True)
    assert [(one.index, milliseconds(one.start), milliseconds(one.end), one.content) for one in read] == [
        (number, cue.start_ms, cue.end_ms, text_of(cue).translate(TWINS)) for number, cue in enumerate(cues, 1)
    ]


@given(transcripts())
@with_hostile_examples
@settings(max_examples=60, deadline=None)
def test_vtt_round_trips(document: Transcript) -> None:
    cues = cues_of(document, inline_labels=False)
    read = webvtt.from_string(body(document, "vtt")).captions
    assert [(one.start, one.end) for one in read] == [
        (stamp(cue.start_ms, "."), stamp(cue.end_ms, ".")) for cue in cues
    ]
    assert [html.unescape(one.text) for one in read] == [text_of(cue) for cue in cues]
    assert [html.unescape(one.voice) if one.voice else None for one in read] == [cue.speaker for cue in cues]


@given(transcripts().map(within_a_day))
@with_hostile_examples
@settings(max_examples=60, deadline=None)
def test_ass_round_trips(document: Transcript) -> None:
    document = within_a_day(document)
    cues = cues_of(document, inline_labels=True)
    read = pysubs2.SSAFile.from_string(body(document, "ass"), format_="ass")
    assert [(one.type, one.start, one.end) for one in read] == [
        ("Dialogue", cue.start_ms // 10 * 10, cue.end_ms // 10 * 10) for cue in cues
    ]
    assert [one.plaintext for one in read] == [text_of(cue).translate(BRACES) for cue in cues]
    assert [one.name for one in read] == [(cue.speaker or "").translate(BRACES).replace(",", "，") for cue in cues]
    assert all(one.style in read.styles for one in read)


def cell(text: str) -> str:
    """Return the text as one line that no spreadsheet runs as a formula."""
    line = clean(text)
    return "'" + line if line[:1] in set("=+-@＝＋－＠") else line


@given(transcripts())
@with_hostile_examples
@settings(max_examples=60, deadline=None)
def test_tsv_has_a_row_of_four_fields_per_segment(document: Transcript) -> None:
    text = body(document, "tsv")
    rows = [line.split("\t") for line in text.split("\n")[:-1]]
    assert rows[0] == ["start", "end", "text", "speaker"]
    spoken = [one for one in document.segments if clean(one.text)]
    assert [row[2:] for row in rows[1:]] == [[cell(one.text), cell(one.speaker or "")] for one in spoken]
    for row, one in zip(rows[1:], spoken, strict=True):
        assert int(row[0]) == round(one.start * 1000)
        assert int(row[1]) == max(int(row[0]), round(one.end * 1000))


@given(transcripts())
@with_hostile_examples
@settings(max_examples=60, deadline=None)
def test_txt_has_the_paragraphs_of_the_markdown_document(document: Transcript) -> None:
    text = body(document, "txt")
    blocks = takewhile(lambda block: block != ("h1", "Timestamped Transcript"), expected_blocks(document))
    expected = [block.replace("<strong>", "", 1).replace("</strong>", "", 1) for kind, block in blocks if kind == "p"]
    assert (text.removesuffix("\n").split("\n\n") if text else [NO_SPEECH]) == expected


# --- examples -------------------------------------------------------------------------------------------------------


def spoken(*words: tuple[str, float, float], speaker: str | None = None) -> Segment:
    timed = tuple(
        Word(word=text, start=start, end=end, score=None, speaker=speaker, overlap=None) for text, start, end in words
    )
    return segment(" ".join(text for text, _, _ in words), timed[0].start, timed[-1].end, speaker, timed)


CALL = transcript(
    spoken(("Is", 0.5, 0.7), ("2", 0.7, 1.1), ("<", 1.2, 1.5), ("3?", 1.5, 2.0), speaker="SPEAKER_00"),
    spoken(("R&D", 4.0, 4.4), ("says", 4.4, 4.8), ("so.", 4.9, 5.25), speaker="SPEAKER_01"),
)


def test_srt() -> None:
    assert (
        body(CALL, "srt")
        == """\
1
00:00:00,500 --> 00:00:02,000
SPEAKER_00: Is 2 ＜ 3?

2
00:00:04,000 --> 00:00:05,250
SPEAKER_01: R&D says so.
"""
    )


def test_vtt() -> None:
    assert (
        body(CALL, "vtt")
        == """\
WEBVTT

00:00:00.500 --> 00:00:02.000
<v SPEAKER_00>Is 2 &lt; 3?

00:00:04.000 --> 00:00:05.250
<v SPEAKER_01>R&amp;D says so.
"""
    )


def test_ass() -> None:
    events = body(CALL, "ass").split("Effect, Text\n")[1]
    assert (
        events
        == """\
Dialogue: 0,0:00:00.50,0:00:02.00,Default,SPEAKER_00,0,0,0,,SPEAKER_00: Is 2 < 3?
Dialogue: 0,0:00:04.00,0:00:05.25,Default,SPEAKER_01,0,0,0,,SPEAKER_01: R&D says so.
"""
    )


def test_tsv() -> None:
    assert (
        body(CALL, "tsv")
        == """\
start\tend\ttext\tspeaker
500\t2000\tIs 2 < 3?\tSPEAKER_00
4000\t5250\tR&D says so.\tSPEAKER_01
"""
    )


def test_txt() -> None:
    more = segment("And more.", 5.5, 6, "SPEAKER_01")
    assert (
        body(transcript(*CALL.segments, more), "txt")
        == """\
SPEAKER_00: Is 2 < 3?

SPEAKER_01: R&D says so. And more.
"""
    )
    assert body(transcript(segment("One", 0, 1), segment("two.", 2.9, 4), segment("Three.", 6, 7)), "txt") == (
        "One two.\n\nThree.\n"
    )
    japanese = in_language("ja", transcript(segment("はい。", 0, 1), segment("そうです。", 1, 2)))
    assert body(japanese, "txt") == "はい。そうです。\n"


def test_highlighted_words_are_underlined_one_after_the_other() -> None:
    read = list(srt.parse(body(CALL, "srt", highlight_words=True, speaker_labels=False)))
    assert [(one.start.total_seconds(), one.end.total_seconds(), one.content) for one in read] == [
        (0.5, 0.7, "<u>Is</u> 2 ＜ 3?"),
        (0.7, 1.2, "Is <u>2</u> ＜ 3?"),
        (1.2, 1.5, "Is 2 <u>＜</u> 3?"),
        (1.5, 2.0, "Is 2 ＜ <u>3?</u>"),
        (4.0, 4.4, "<u>R&D</u> says so."),
        (4.4, 4.9, "R&D <u>says</u> so."),
        (4.9, 5.25, "R&D says <u>so.</u>"),
    ]
    vtt = webvtt.from_string(body(CALL, "vtt", highlight_words=True)).captions
    assert [one.raw_text for one in vtt][:2] == [
        "<v SPEAKER_00><u>Is</u> 2 &lt; 3?",
        "<v SPEAKER_00>Is <u>2</u> &lt; 3?",
    ]


def test_ass_highlights_words_as_karaoke() -> None:
    first, second = pysubs2.SSAFile.from_string(body(CALL, "ass", highlight_words=True), format_="ass")
    assert first.text == r"SPEAKER_00: {\k20}Is {\k50}2 {\k30}< {\k50}3?"
    assert sum(map(int, re.findall(r"\\k(\d+)", second.text))) * 10 == second.duration == 1250


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_names_can_be_omitted(name: Format) -> None:
    assert "SPEAKER" not in body(CALL, name, speaker_labels=False)


@pytest.mark.parametrize(
    ("name", "expected"), [("srt", ""), ("vtt", "WEBVTT\n"), ("txt", ""), ("tsv", "start\tend\ttext\tspeaker\n")]
)
def test_silence(name: Format, expected: str) -> None:
    assert body(transcript(), name) == expected
    assert body(transcript(segment(" \n\x00")), name) == expected


def test_silence_in_ass() -> None:
    assert len(pysubs2.SSAFile.from_string(body(transcript(), "ass"), format_="ass")) == 0


def test_hours_beyond_99() -> None:
    late = transcript(segment("Late.", 360_000, 360_001))
    assert "\n100:00:00,000 --> 100:00:01,000\n" in body(late, "srt")
    assert "\n100:00:00.000 --> 100:00:01.000\n" in body(late, "vtt")
    assert ",100:00:00.00,100:00:01.00," in body(late, "ass")
    assert "\n360000000\t360001000\t" in body(late, "tsv")


@pytest.mark.parametrize(
    ("name", "file_name", "content_type"),
    [
        ("txt", "transcript.txt", "text/plain; charset=utf-8"),
        ("srt", "transcript.srt", "application/x-subrip; charset=utf-8"),
        ("vtt", "transcript.vtt", "text/vtt; charset=utf-8"),
        ("ass", "transcript.ass", "text/x-ssa; charset=utf-8"),
        ("tsv", "transcript.tsv", "text/tab-separated-values; charset=utf-8"),
    ],
)
def test_names_and_media_types(name: Format, file_name: str, content_type: str) -> None:
    (file,) = render(transcript(), [name])
    assert (file.name, file.content_type) == (file_name, content_type)
