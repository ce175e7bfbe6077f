"""The layout of subtitles: every word in one cue, limits respected, and breaks where an editor would put them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.outputs.subtitles.cues import Cue, frames, spell, stamp, word_times
from daemon.outputs.subtitles.layout import MIN_STEP_MS, lay_out
from daemon.outputs.subtitles.utterances import SpokenWord
from daemon.outputs.text import clean, columns
from daemon.schema.options import SubtitleOptions
from daemon.schema.transcript import Segment, Transcript, Word
from tests.support.transcripts import in_language, in_languages, segment, transcript, transcripts

DEFAULTS = SubtitleOptions()


def text_of(cue: Cue) -> str:
    return spell(cue, lambda word: word.text)


def shown(document: Transcript, options: SubtitleOptions = DEFAULTS, inline_labels: bool = True) -> list[str]:
    return [text_of(cue) for cue in lay_out(document, options, inline_labels)]


def said(text: str, start: float = 0, speaker: str | None = None, seconds_per_word: float = 0.4) -> Segment:
    """Return a segment whose words follow each other without a pause."""
    words = [
        Word(
            word=word,
            start=start + index * seconds_per_word,
            end=start + (index + 1) * seconds_per_word,
            score=None,
            speaker=speaker,
            overlap=None,
        )
        for index, word in enumerate(text.split())
    ]
    return segment(text, start, words[-1].end, speaker, tuple(words))


def recording(*segments: Segment, language: str = "en", seconds: float = 0) -> Transcript:
    end = max([seconds, *(one.end for one in segments)])
    return in_language(language, transcript(*segments)).model_copy(update={"duration_seconds": end})


# --- line breaks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("A short one.", ["A short one."], id="text that fits on a line stays on it"),
        pytest.param(
            "This is the first sentence. And here comes the second one which is a good deal longer than the first.",
            [
                "This is the first sentence.",
                "And here comes the second one which is\na good deal longer than the first.",
            ],
            id="after a sentence, not in the next one",
        ),
        pytest.param(
            "We tried to call you yesterday, but nobody answered the phone.",
            ["We tried to call you yesterday,\nbut nobody answered the phone."],
            id="after a comma",
        ),
        pytest.param(
            "He simply stood up before everybody and walked away slowly.",
            ["He simply stood up before everybody\nand walked away slowly."],
            id="before a conjunction",
        ),
        pytest.param(
            "The children were playing quietly beneath the old wooden table.",
            ["The children were playing quietly\nbeneath the old wooden table."],
            id="never after an article; in halves if there is no better place nearby",
        ),
        pytest.param(
            "When the committee met last Thursday, nobody expected that the chairman would resign, but after a long and "
            "heated discussion about the budget he simply stood up and walked out of the room.",
            [
                "When the committee met last Thursday,\nnobody expected",
                "that the chairman would resign,\nbut after a long and heated discussion",
                "about the budget he simply stood up\nand walked out of the room.",
            ],
            id="a long sentence in cues of about equal length",
        ),
        pytest.param(
            "Mr. Smith and Dr. Jones met Mrs. Miller in front of the station.",
            ["Mr. Smith and Dr. Jones met Mrs. Miller\nin front of the station."],
            id="not after the full stop of a title",
        ),
        pytest.param(
            "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft is one word.",
            ["Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft\nis one word."],
            id="never inside a word",
        ),
    ],
)
def test_english_is_broken_where_an_editor_would(text: str, expected: list[str]) -> None:
    assert shown(recording(said(text))) == expected


def test_other_languages_know_their_function_words() -> None:
    text = "Der alte Mann ging langsam über die Straße und winkte den Kindern."
    assert shown(recording(said(text), language="de")) == [
        "Der alte Mann ging langsam\nüber die Straße und winkte den Kindern."
    ]


def test_language_without_spaces_breaks_after_punctuation_and_keeps_foreign_words_whole() -> None:
    text = "私は昨日、東京でAppleの新しい製品を見ましたが、とても高かったので買いませんでした。でも待つことにします。"
    assert shown(recording(segment(text, 0, 9), language="ja", seconds=12)) == [
        "私は昨日、\n東京でAppleの新しい製品を見ましたが、",
        "とても高かったので買いませんでした。\nでも待つことにします。",
    ]


def test_no_line_of_japanese_starts_with_a_mark_or_a_small_kana() -> None:
    lines = "\n".join(shown(recording(segment("チョット待ッテクダサイ、ネェ。" * 12, 0, 60), language="ja"))).split(
        "\n"
    )
    assert len(lines) > 6
    assert not {line[0] for line in lines} & set("ョッェ、。")


def test_unbreakable_characters_are_still_bounded() -> None:
    lines = "\n".join(shown(recording(segment("あ" + "ー" * 400, 0, 30), language="ja"))).split("\n")
    assert max(map(columns, lines)) <= 48


def test_spaces_are_those_of_the_text() -> None:
    """Words carry no spaces: Japanese with an English name, a number that the aligner split."""
    words = tuple(
        Word(word=word, start=index, end=index + 0.9, score=None, speaker=None, overlap=None)
        for index, word in enumerate(["東", "京", "New", "York", "です。"])
    )
    assert shown(recording(segment("東京 New York です。", 0, 5, None, words), language="ja")) == [
        "東京 New York です。"
    ]
    cut = tuple(
        Word(word=word, start=0, end=1, score=None, speaker=None, overlap=None) for word in ["About", "3", ".5", "%"]
    )
    assert shown(recording(segment("About 3.5 %", 0, 5, None, cut))) == ["About 3.5 %"]


def test_translation_is_english() -> None:
    document = recording(said("He simply stood up before everybody and walked away slowly."), language="ja")
    assert shown(document.model_copy(update={"task": "translate"})) == [
        "He simply stood up before everybody\nand walked away slowly."
    ]


def test_a_dash_stays_with_what_is_before_it() -> None:
    """At the start of a line it would mean a change of speaker."""
    text = "There is one thing that I must tell you – he has never been there."
    assert all(not line.startswith("–") for cue in shown(recording(segment(text, 0, 5))) for line in cue.split("\n"))


def test_three_lines_and_one() -> None:
    text = "We tried to call you yesterday, but nobody answered the phone, so we went home."
    narrow = SubtitleOptions(max_chars_per_line=32, max_lines=3)
    assert shown(recording(said(text)), narrow) == [
        "We tried to call you yesterday,\nbut nobody answered the phone,\nso we went home."
    ]
    assert shown(recording(said(text)), SubtitleOptions(max_lines=1)) == [
        "We tried to call you yesterday,",
        "but nobody answered the phone,",
        "so we went home.",
    ]


# --- speakers -----------------------------------------------------------------------------------------------------


CALL = recording(
    said("Hello.", 0, "SPEAKER_00"),
    said("Hello, who is there?", 1, "SPEAKER_01"),
    said("It is your neighbour from the second floor.", 4, "SPEAKER_01"),
    said("Oh.", 8, None),
)


def test_speaker_change_starts_a_cue_and_is_named_once() -> None:
    assert shown(CALL) == [
        "SPEAKER_00: Hello.",
        "SPEAKER_01: Hello, who is there?",
        "It is your neighbour\nfrom the second floor.",
        "Oh.",
    ]
    assert shown(CALL, inline_labels=False)[0] == "Hello."
    assert shown(CALL, SubtitleOptions(speaker_labels=False))[0] == "Hello."
    assert [cue.speaker for cue in lay_out(CALL, DEFAULTS, inline_labels=False)] == [
        "SPEAKER_00",
        "SPEAKER_01",
        "SPEAKER_01",
        None,
    ]


def test_simultaneous_speakers_alternate_and_are_always_named() -> None:
    document = recording(
        said("When the committee met last Thursday, nobody expected that the chairman would resign.", 0, "A"),
        said("Really?", 2, "B"),
        said("Yes.", 8, "B"),
        seconds=10,
    )
    cues = lay_out(document, DEFAULTS, inline_labels=True)
    assert [text_of(cue) for cue in cues] == [
        "A: When the committee met last Thursday,",
        "B: Really?",
        "A: nobody expected\nthat the chairman would resign.",
        "B: Yes.",
    ]
    assert cues[1].start_ms == 2400, "it starts when the interrupted words end"


# --- durations ----------------------------------------------------------------------------------------------------


def times(document: Transcript, options: SubtitleOptions = DEFAULTS) -> list[tuple[int, int]]:
    return [(cue.start_ms, cue.end_ms) for cue in lay_out(document, options, inline_labels=False)]


def test_short_cue_is_extended_into_the_following_silence() -> None:
    assert times(recording(said("Yes.", 1, seconds_per_word=0.2), said("No.", 10))) == [(1000, 1800), (10_000, 10_400)]
    assert times(recording(said("Yes.", 1, seconds_per_word=0.2), seconds=5)) == [(1000, 1800)]
    assert times(recording(said("Yes.", 1, seconds_per_word=0.2), seconds=1.5)) == [(1000, 1500)]


def test_fast_speech_stays_until_it_can_be_read() -> None:
    text = "Nobody has ever been so fast before."  # 36 columns take 1.8 s
    assert times(recording(said(text, 0, seconds_per_word=0.1), said("No.", 10)))[0] == (0, 1800)


def test_short_gap_is_reduced_to_the_minimum() -> None:
    first = said("One two three four.", 0)  # ends at 1.6 s
    assert times(recording(first, said("Five.", 1.9, "B")))[0] == (0, 1820)
    assert times(recording(first, said("Five.", 1.6, "B")))[0] == (0, 1520)
    assert times(recording(first, said("Five.", 2.3, "B")))[0] == (0, 1600)


def test_cue_never_exceeds_the_limit_or_a_pause() -> None:
    slow = [word for index in range(6) for word in said("word", index * 1.9, seconds_per_word=1.5).words]
    spans = times(recording(segment("word " * 6, 0, 11, None, tuple(slow))))
    assert len(spans) == 2
    assert all(end - start <= 7000 for start, end in spans)
    held = Word(word="Ooooh", start=0, end=30, score=None, speaker=None, overlap=None)
    assert times(recording(segment("Ooooh", 0, 30, None, (held,)))) == [(0, 7000)]
    assert len(times(recording(said("One."), said("Two.", 1.5)))) == 2


def test_text_without_word_times_is_divided_by_its_length() -> None:
    cues = lay_out(recording(segment("aaaa bbbb cc", 1, 2)), DEFAULTS, inline_labels=False)
    assert [(word.text, word.start_ms, word.end_ms) for word in cues[0].words] == [
        ("aaaa", 1000, 1400),
        ("bbbb", 1400, 1800),
        ("cc", 1800, 2000),
    ]


# --- arbitrary speech ---------------------------------------------------------------------------------------------

WORDS = st.text("abcdefgh'.,?!-é漢ーسلام", min_size=1, max_size=14)
OPTIONS = st.builds(
    SubtitleOptions,
    max_chars_per_line=st.integers(10, 60),
    max_lines=st.integers(1, 3),
    min_duration_seconds=st.floats(0, 2),
    max_duration_seconds=st.floats(2, 10),
    max_chars_per_second=st.floats(5, 60),
    min_gap_seconds=st.floats(0, 1),
    highlight_words=st.booleans(),
    speaker_labels=st.booleans(),
)


@st.composite
def conversations(draw: st.DrawFn) -> Transcript:
    """Generate speakers who talk one after the other, with and without word times, at any speed."""
    now = 0.0
    segments = []
    languages = []
    for speaker in draw(st.lists(st.sampled_from(["SPEAKER_00", "SPEAKER_01", None]), max_size=6)):
        now += draw(st.sampled_from([0, 0, 0.05, 0.3, 1.5, 9]))
        start = now
        words = []
        for text in draw(st.lists(WORDS, min_size=1, max_size=25)):
            now += draw(st.sampled_from([0, 0, 0, 0.04, 0.6, 2]))
            end = now + draw(st.floats(0, 1))
            words.append(Word(word=text, start=now, end=end, score=None, speaker=speaker, overlap=None))
            now = end
        text = " ".join(word.word for word in words)
        segments.append(segment(text, start, now, speaker, tuple(words) if draw(st.booleans()) else ()))
        languages.append(draw(st.sampled_from(["en", "ja", "ar"])))
    tail = draw(st.floats(0, 5))
    return in_languages(languages, transcript(*segments)).model_copy(update={"duration_seconds": now + tail})


def check_invariants(cues: Sequence[Cue], options: SubtitleOptions) -> None:
    gap_ms = round(options.min_gap_seconds * 1000)
    for cue in cues:
        assert 0 < cue.end_ms - cue.start_ms <= round(options.max_duration_seconds * 1000)
        assert 1 <= len(cue.lines) <= options.max_lines
        for number, line in enumerate(text_of(cue).split("\n")):
            assert columns(line) <= options.max_chars_per_line or len(cue.lines[number]) == 1
    for cue, following in pairwise(cues):
        step_ms = following.start_ms - cue.start_ms
        assert step_ms >= MIN_STEP_MS
        assert following.start_ms - cue.end_ms >= min(gap_ms, step_ms // 2)


@given(conversations(), OPTIONS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_speech_is_shown_in_order_by_its_speaker_within_the_limits(
    document: Transcript, options: SubtitleOptions, inline_labels: bool
) -> None:
    cues = lay_out(document, options, inline_labels)
    check_invariants(cues, options)
    spoken = [(char, one.speaker) for one in document.segments for char in clean(one.text) if char != " "]
    on_screen = [(char, cue.speaker) for cue in cues for word in cue.words for char in word.text if char != " "]
    assert on_screen == spoken
    for cue in cues:
        assert cue.start_ms >= cue.words[0].start_ms
    labels = [cue.label for cue in cues if cue.label]
    if not (inline_labels and options.speaker_labels):
        assert labels == []


@given(transcripts(), OPTIONS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_limits_hold_for_any_transcript(document: Transcript, options: SubtitleOptions, inline_labels: bool) -> None:
    cues = lay_out(document, options, inline_labels)
    check_invariants(cues, options)
    spoken: Counter[str] = Counter()
    for one in document.segments:
        timed = [clean(word.word) for word in one.words if clean(word.word)]
        spoken.update("".join(timed or [clean(one.text)]).replace(" ", ""))
    assert Counter(char for cue in cues for word in cue.words for char in word.text if char != " ") == spoken


def ways_to_cut(words: list[SpokenWord]) -> Iterator[list[list[SpokenWord]]]:
    if not words:
        yield []
    for end in range(1, len(words) + 1):
        for rest in ways_to_cut(words[end:]):
            yield [words[:end], *rest]


def lines_needed(words: list[SpokenWord], max_columns: int) -> int:
    lines, used = 1, columns(words[0].text)
    for word in words[1:]:
        used += 1 + columns(word.text)
        if used > max_columns:
            lines, used = lines + 1, columns(word.text)
    return lines


def can_be_read(cut: list[list[SpokenWord]], end_ms: int, options: SubtitleOptions) -> bool:
    """Return whether all cues of a segmentation respect the limits and stay long enough."""
    ends = [cue[0].start_ms - round(options.min_gap_seconds * 1000) for cue in cut[1:]] + [end_ms]
    longest_ms = round(options.max_duration_seconds * 1000)
    for cue, free_until_ms in zip(cut, ends, strict=True):
        text_columns = columns(" ".join(word.text for word in cue))
        needed_ms = max(options.min_duration_seconds, text_columns / options.max_chars_per_second) * 1000
        if min(free_until_ms - cue[0].start_ms, longest_ms) < needed_ms:
            return False
        if len(cue) > 1 and (
            cue[-1].end_ms - cue[0].start_ms > longest_ms
            or lines_needed(cue, options.max_chars_per_line) > options.max_lines
        ):
            return False
    return True


@st.composite
def bursts(draw: st.DrawFn) -> Transcript:
    """Generate a few words without a long pause: one utterance, sometimes too fast."""
    now, words = 0.0, []
    for text in draw(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=8)):
        now += draw(st.sampled_from([0, 0, 0.1, 0.5, 0.9]))
        end = now + draw(st.sampled_from([0.05, 0.2, 0.5]))
        words.append(Word(word=text, start=now, end=end, score=None, speaker=None, overlap=None))
        now = end
    text = " ".join(word.word for word in words)
    tail = draw(st.sampled_from([0, 0.5, 2]))
    return recording(segment(text, 0, now, None, tuple(words)), seconds=now + tail)


@given(bursts(), st.sampled_from([8.0, 12.0, 20.0]), st.sampled_from([0, 0.8]))
@settings(max_examples=150, deadline=None)
def test_readable_segmentation_is_found_if_one_exists(document: Transcript, speed: float, shortest: float) -> None:
    options = SubtitleOptions(max_chars_per_line=20, max_chars_per_second=speed, min_duration_seconds=shortest)
    cues = lay_out(document, options, inline_labels=False)
    end_ms = round(document.duration_seconds * 1000)
    words = [word for cue in cues for word in cue.words]
    if any(can_be_read(cut, end_ms, options) for cut in ways_to_cut(words)):
        for cue in cues:
            needed_seconds = max(shortest, columns(text_of(cue).replace("\n", " ")) / speed)
            assert cue.end_ms - cue.start_ms >= needed_seconds * 1000 - 1e-6


# --- writing ------------------------------------------------------------------------------------------------------


@given(conversations(), OPTIONS)
@settings(max_examples=30, deadline=None)
def test_highlight_covers_a_cue_without_gaps(document: Transcript, options: SubtitleOptions) -> None:
    for cue in lay_out(document, options, inline_labels=False):
        edges = [cue.start_ms, *(end for _, _, end in word_times(cue))]
        assert [(begin, end) for _, begin, end in word_times(cue)] == list(pairwise(edges))
        assert edges == sorted(edges)
        assert edges[-1] == cue.end_ms
        assert frames(cue, highlight_words=False) == [(cue.start_ms, cue.end_ms, None)]
        assert all(end > begin for begin, end, _ in frames(cue, highlight_words=True))


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(0, "00:00:00.000"), (3_661_001, "01:01:01.001"), (359_999_999, "99:59:59.999"), (360_000_000, "100:00:00.000")],
)
def test_stamp(milliseconds: int, expected: str) -> None:
    assert stamp(milliseconds, ".") == expected


@pytest.mark.parametrize(("text", "expected"), [("abc", 3), ("漢字", 4), ("é", 1), ("e\u0301", 1), ("ｱ", 1), ("가", 2)])
def test_columns(text: str, expected: int) -> None:
    assert columns(text) == expected
