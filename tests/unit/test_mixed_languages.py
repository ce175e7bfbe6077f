"""Layout of transcripts whose segments are in different languages, and of languages written from right to left."""

import html
import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.outputs import Presentation, render
from daemon.outputs.subtitles.cues import spell
from daemon.outputs.subtitles.layout import lay_out
from daemon.outputs.text import columns
from daemon.schema.options import Format, SubtitleOptions
from daemon.schema.transcript import Segment, Transcript, Word
from tests.support.transcripts import in_languages, segment, transcript

SPOKEN = {
    "zh": ("你好,世界。", "今天天气很好。"),
    "ja": ("こんにちは。", "元気です。"),
    "th": ("สวัสดีครับ", "ขอบคุณครับ"),
    "en": ("The lazy dog.", "1, 2, 3 and 4."),
    "de": ("Guten Tag.", "Wie geht es Ihnen?"),
    "ar": ("مرحبا بكم.", "شكرا جزيلا."),
    "he": ("שלום לכולם.", "תודה רבה."),
}
UNSPACED = {"zh", "ja", "th"}
ORDERS = [
    order
    for pair in [("zh", "en"), ("ja", "en"), ("th", "en"), ("de", "ja"), ("ar", "en"), ("he", "zh"), ("zh", "ja")]
    for order in (pair, pair[::-1])
]
MARKS = "\u200f\u202b\u202c"
EMBEDDED = "\u200f\u202b{}\u202c"


def said(text: str, start: float, speaker: str | None, timed: bool, spaced: bool) -> Segment:
    """Return a segment of 0.2 s per word; a character is a word of a language without spaces."""
    words = text.split() if spaced else [char for char in text if char != " "]
    spans = [(start + 0.2 * index, start + 0.2 * (index + 1)) for index in range(len(words))]
    timed_words = [
        Word(word=word, start=begin, end=end, score=None, speaker=speaker, overlap=None)
        for word, (begin, end) in zip(words, spans, strict=True)
    ]
    return segment(text, start, spans[-1][1], speaker, tuple(timed_words) if timed else ())


def mixed(
    *parts: tuple[str, str], timed: bool = True, speakers: tuple[str | None, ...] = (), main: str = "en"
) -> Transcript:
    """Return a transcript of (language, text) without pauses. `main` is the recording's language."""
    segments: list[Segment] = []
    for index, (language, text) in enumerate(parts):
        start = segments[-1].end if segments else 0.0
        speaker = speakers[index] if speakers else None
        segments.append(said(text, start, speaker, timed, language not in UNSPACED))
    document = in_languages([language for language, _ in parts], transcript(*segments))
    return document.model_copy(update={"language": main, "duration_seconds": segments[-1].end + 5})


def body(document: Transcript, name: Format, **options: object) -> str:
    return render(document, [name], Presentation(SubtitleOptions.model_validate(options)))[0].body.decode()


def unmarked(text: str) -> str:
    return text.translate(dict.fromkeys(map(ord, MARKS)))


def shown_texts(document: Transcript, name: Format) -> list[str]:
    """Return the texts of a document's paragraphs or cues without lines breaks, which replace spaces."""
    text = unmarked(body(document, name, max_chars_per_line=100, max_duration_seconds=60, max_chars_per_second=100))
    if name == "html":
        return [html.unescape(re.sub("<[^>]+>", "", part)) for part in re.findall(r"<p dir=.*?</p>", text)]
    if name == "md":
        return text.split("# Timestamped")[0].strip().split("\n\n")[1:]
    if name == "txt":
        return text.strip().split("\n\n")
    if name == "ass":
        return [line.split(",", 9)[9].replace(r"\N", "\n") for line in text.split("\n") if line.startswith("Dial")]
    skipped = 2 if name == "srt" else 1  # the number and the times
    blocks = text.removeprefix("WEBVTT\n\n").strip().split("\n\n")
    return [block.split("\n", skipped)[skipped] for block in blocks]


# --- spaces between segments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", ["en", "zh", "ar"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["md", "txt"])
def test_segments_of_a_paragraph_are_joined_by_the_rule_of_the_boundary(
    name: Format, order: tuple[str, str], main: str
) -> None:
    first, second = order
    parts = [
        (first, SPOKEN[first][0]),
        (first, SPOKEN[first][1]),
        (second, SPOKEN[second][0]),
        (second, SPOKEN[second][1]),
    ]
    spaces = ["" if {one, other} <= UNSPACED else " " for (one, _), (other, _) in pairwise(parts)]
    expected = parts[0][1] + "".join(space + text for space, (_, text) in zip(spaces, parts[1:], strict=True))
    assert shown_texts(mixed(*parts, main=main), name) == [expected]


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("main", ["en", "zh"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["srt", "vtt", "ass"])
def test_segments_of_a_cue_are_joined_by_the_rule_of_the_boundary(
    name: Format, order: tuple[str, str], main: str, timed: bool
) -> None:
    first, second = order
    document = mixed((first, "1"), (first, SPOKEN[first][0]), (second, SPOKEN[second][0]), timed=timed, main=main)
    between = "" if set(order) <= UNSPACED else " "
    start = "1" if first in UNSPACED else "1 "
    together = " ".join(shown_texts(document, name)).replace("\n", " ")
    # A cue or a line may end between the segments.
    assert together.replace(" ", "") == f"1{SPOKEN[first][0]}{SPOKEN[second][0]}".replace(" ", "")
    if len(shown_texts(document, name)) == 1:
        assert together == f"{start}{SPOKEN[first][0]}{between}{SPOKEN[second][0]}"


@pytest.mark.parametrize("order", ORDERS)
def test_page_names_the_language_of_each_paragraph(order: tuple[str, str]) -> None:
    first, second = order
    parts = [(code, SPOKEN[code][part]) for code in (first, second) for part in (0, 1)]
    document = mixed(*parts, main=first)
    joined = {code: ("" if code in UNSPACED else " ").join(SPOKEN[code]) for code in order}
    assert shown_texts(document, "html") == [joined[first], joined[second]]
    directions = {code: "rtl" if code in ("ar", "he") else "auto" for code in order}
    assert re.findall(r"<p (dir=[^>]*)>", body(document, "html")) == [
        f'dir="{directions[first]}"',
        f'dir="{directions[second]}" lang="{second}"',
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_table_keeps_the_texts(order: tuple[str, str]) -> None:
    document = mixed(*((code, SPOKEN[code][0]) for code in order), speakers=("A", "B"))
    rows = [line.split("\t") for line in body(document, "tsv").splitlines()[1:]]
    assert [row[2:] for row in rows] == [[SPOKEN[code][0], name] for code, name in zip(order, "AB", strict=True)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("你好世界Hello", "World", "你好世界Hello World"),
        ("the lazy dog.", "1, 2, 3", "the lazy dog. 1, 2, 3"),
        ("café", "déjà", "café déjà"),
        ("这是3", "年。", "这是3年。"),
        ("他说“好。”", "“是。”", "他说“好。”“是。”"),
        ("他说“good.”", "“Yes.”", "他说“good.” “Yes.”"),
        ("好…", "是", "好…是"),
        ("สวัสดี", "ครับ", "สวัสดีครับ"),
        ("សួស្តី", "អរគុណ", "សួស្តីអរគុណ"),
    ],
)
def test_foreign_words_in_a_language_without_spaces_do_not_stick_together(
    first: str, second: str, expected: str
) -> None:
    document = mixed(("zh", first), ("zh", second), main="zh")
    assert shown_texts(document, "txt") == [expected]
    assert shown_texts(document, "srt") == [expected]


@given(st.lists(st.tuples(st.sampled_from(sorted(SPOKEN)), st.integers(0, 1)), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_only_languages_without_spaces_touch(choice: list[tuple[str, int]], data: st.DataObject) -> None:
    parts = [(code, SPOKEN[code][which]) for code, which in choice]
    document = mixed(*parts, main=data.draw(st.sampled_from(sorted(SPOKEN))), timed=data.draw(st.booleans()))
    (text,) = shown_texts(document, "txt")
    position = 0
    for (before, _), (after, spoken) in pairwise([("", ""), *parts]):
        gap = "" if not before or {before, after} <= UNSPACED else " "
        assert text.startswith(gap + spoken, position)
        position += len(gap + spoken)
    assert position == len(text)
    for cue in lay_out(document, SubtitleOptions(max_chars_per_line=100), inline_labels=True):
        for line in cue.lines:
            for last, word in pairwise(line):
                assert word.space_before or {last.language, word.language} <= UNSPACED


def test_translation_of_mixed_speech_is_english_throughout() -> None:
    document = mixed(("zh", "Hello there."), ("ar", "And hello."), main="zh").model_copy(update={"task": "translate"})
    document = document.model_copy(
        update={"segments": [one.model_copy(update={"words": []}) for one in document.segments]}
    )
    assert shown_texts(document, "txt") == shown_texts(document, "srt") == ["Hello there. And hello."]
    assert shown_texts(document, "html") == ["Hello there. And hello."]


# --- breaks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", ["zh", "en", "ja"])
def test_lines_break_by_the_rules_of_the_segment(main: str) -> None:
    english, german = (
        "He simply stood up before everybody and walked away slowly.",
        ("Der alte Mann ging langsam über die Straße und winkte den Kindern."),
    )
    document = mixed(("en", english), ("de", german), main=main, speakers=("A", "B"))
    assert shown(document) == [
        "He simply stood up before everybody\nand walked away slowly.",
        "Der alte Mann ging langsam\nüber die Straße und winkte den Kindern.",
    ]


def test_japanese_in_an_english_recording_breaks_between_characters() -> None:
    text = "私は昨日、東京でAppleの新しい製品を見ましたが、とても高かったので買いませんでした。"
    for timed in (True, False):
        cues = shown(mixed(("en", "Yes."), ("ja", text), timed=timed, speakers=("A", "B")))
        assert cues[0] == "Yes."
        lines = "\n".join(cues[1:]).split("\n")
        assert "".join(lines) == text
        assert max(map(columns, lines)) <= 42
        assert not any(line.endswith("App") for line in lines)


def shown(document: Transcript) -> list[str]:
    options = SubtitleOptions(speaker_labels=False)
    return [spell(cue, lambda word: word.text) for cue in lay_out(document, options, inline_labels=True)]


# --- right to left ----------------------------------------------------------------------------------------------------

RIGHT_TO_LEFT = {
    "ar": "مرحبا بكم.",
    "he": "שלום לכולם.",
    "fa": "سلام، حال شما چطور است؟",
    "ur": "آپ کیسے ہیں؟",
}


@pytest.mark.parametrize("main", ["en", "ar"])
@pytest.mark.parametrize("language", RIGHT_TO_LEFT)
def test_labelled_line_reads_right_to_left(language: str, main: str) -> None:
    text = RIGHT_TO_LEFT[language]
    document = mixed((language, text), ("en", "Hello."), speakers=("SPEAKER_00", "SPEAKER_01"), main=main)
    line = EMBEDDED.format(f"SPEAKER_00: {text}")
    assert f"\n{line}\n\n2\n" in body(document, "srt")
    assert f",0,0,0,,{line}\n" in body(document, "ass")
    assert f"\n<v SPEAKER_00>{text}\n" in body(document, "vtt"), "the label is no text of the line"
    assert body(document, "txt") == f"\u200fSPEAKER_00: {text}\n\nSPEAKER_01: Hello.\n"
    assert f"\n\n\u200f**SPEAKER_00:** {text}\n\n**SPEAKER_01:** Hello." in body(document, "md")
    for clean_format in ("json", "tsv"):
        assert not set(MARKS) & set(body(document, clean_format))


def test_line_that_starts_with_a_foreign_word_reads_right_to_left() -> None:
    text = "iPhone هاتف جديد."
    document = mixed(("ar", text), main="ar")
    assert f"\n{EMBEDDED.format(text)}\n" in body(document, "srt")
    assert f"\n{EMBEDDED.format(text)}\n" in body(document, "vtt")
    assert body(document, "txt") == f"\u200f{text}\n"
    assert f"\n\n\u200f{text}\n" in body(document, "md")
    assert '<p dir="rtl" lang="ar">' in body(document.model_copy(update={"language": "en"}), "html")


def test_every_line_of_a_substation_cue_is_embedded() -> None:
    """libass and VSFilter lay out every line left to right, whatever its letters."""
    text = " ".join(["كلمة"] * 16)
    document = mixed(("ar", text), speakers=("A",), main="ar")
    lines = body(document, "ass", highlight_words=True).split(",,")[-1].strip().split(r"\N")
    assert len(lines) == 2
    assert all(line.startswith("\u200f\u202b") and line.endswith("\u202c") for line in lines)
    assert body(document, "srt").count("\u200f") == 1, "lines that start with Arabic need no mark here"


def test_lines_without_a_letter_of_the_script_are_not_marked() -> None:
    document = mixed(("ar", "Microsoft Office 365."), ("en", "Hello."), speakers=("A", "B"))
    for name in ("srt", "ass", "vtt", "txt", "md"):
        assert not set(MARKS) & set(body(document, name))


def test_highlighted_words_keep_the_marks() -> None:
    document = mixed(("ar", "مرحبا بكم."), speakers=("A",))
    assert EMBEDDED.format("A: <u>مرحبا</u> بكم.") in body(document, "srt", highlight_words=True)
    assert "<v A><u>مرحبا</u> بكم." in body(document, "vtt", highlight_words=True)


@given(st.lists(st.sampled_from([*RIGHT_TO_LEFT, "en", "zh"]), min_size=1, max_size=5), st.integers(16, 60))
@settings(max_examples=60, deadline=None)
def test_marks_have_no_width_and_every_line_its_direction(languages: list[str], width: int) -> None:
    texts = {**{code: text for code, (text, _) in SPOKEN.items()}, **RIGHT_TO_LEFT}
    names = tuple("AB"[index % 2] for index in range(len(languages)))
    document = mixed(*((code, texts[code]) for code in languages), speakers=names)
    options = SubtitleOptions(max_chars_per_line=width)
    for cue in lay_out(document, options, inline_labels=True):
        lines = spell(cue, lambda word: word.text).split("\n")
        assert len(lines) == len(cue.lines) <= options.max_lines
        for line, words in zip(lines, cue.lines, strict=True):
            assert columns(line) == columns(unmarked(line))
            assert columns(line) <= width or len(words) == 1
            first = next(unicodedata.bidirectional(char) for char in line if unicodedata.bidirectional(char) in "LRAL")
            assert (first != "L") == (words[0].language in RIGHT_TO_LEFT)
            assert line.count("\u202b") == line.count("\u202c")
