"""From timed words to sentences with speakers: pure functions, no model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.alignment.words import attach_marks, split_words
from daemon.pipeline.diarization.speakers import (
    Timeline,
    in_order_of_appearance,
    label_words,
    majority,
    overlapped,
    unmet_bound,
)
from daemon.pipeline.job.segments import Sentence, build_segments, confidence, sentences
from daemon.pipeline.job.units import units
from daemon.pipeline.types import Chunk, Passage, TimedWord, Turn
from daemon.schema.options import JobOptions, SpeakerBound


def words_of(text: str, start: float = 0.0, each: float = 0.5, speaker: str | None = None) -> list[TimedWord]:
    """Return the words of a text one after the other, each `each` seconds long."""
    return [
        TimedWord(word, start + index * each, start + (index + 1) * each, 0.9, speaker)
        for index, word in enumerate(split_words(text, "en"))
    ]


def passage_of(words: Sequence[TimedWord]) -> Passage:
    chunk = Chunk(words[0].start, words[-1].end, ((words[0].start, words[-1].end),))
    return Passage(chunk, "".join(word.text for word in words), -0.25, words=list(words), language="en")


def texts(parts: Sequence[Sentence]) -> list[str]:
    return [part.text for part in parts]


# --- speaker of a word --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "speaker"),
    [
        (0.0, 1.0, "a"),
        (1.5, 3.0, "b"),  # more of it lies in b's turn
        (2.1, 2.3, "a"),  # between the turns: a's end is closer
        (2.3, 2.4, "b"),
        (9.0, 9.5, "a"),  # after all turns
        (3.5, 3.5, "b"),  # zero length, inside a turn
    ],
)
def test_speaker_of_an_interval(start: float, end: float, speaker: str) -> None:
    timeline = Timeline([Turn(2.5, 5.0, "b"), Turn(0.0, 2.0, "a"), Turn(6.0, 7.0, "a")])
    assert timeline.speaker(start, end) == speaker


def test_earlier_of_two_equidistant_turns_wins() -> None:
    assert Timeline([Turn(0.0, 1.0, "a"), Turn(3.0, 4.0, "b")]).speaker(1.5, 2.5) == "a"


@pytest.mark.parametrize(("side", "parts"), [(3, 2), (2, 1)])
def test_speaker_change_requires_three_words_on_each_side(side: int, parts: int) -> None:
    text = " a b c d e f"
    for first in (side, 6 - side):
        turns = Timeline([Turn(0.0, first * 0.5, "x"), Turn(first * 0.5, 3.0, "y")])
        assert len(sentences([passage_of(words_of(text))], turns)) == parts


def test_no_speaker_without_turns() -> None:
    assert Timeline([]).speaker(1.0, 2.0) is None


def test_several_short_turns_outweigh_one() -> None:
    timeline = Timeline([Turn(0.0, 0.3, "a"), Turn(0.3, 0.7, "b"), Turn(0.7, 1.0, "a")])
    assert timeline.speaker(0.0, 1.0) == "a"


def test_long_turn_below_many_short_ones_is_found() -> None:
    timeline = Timeline([Turn(0.0, 100.0, "a"), *(Turn(i, i + 0.1, "b") for i in range(1, 50))])
    assert timeline.speaker(60.0, 61.0) == "a"
    assert timeline.speaker(200.0, 201.0) == "a"


turns = st.lists(
    st.tuples(st.integers(0, 100), st.integers(1, 30), st.sampled_from("abc")).map(
        lambda t: Turn(t[0] / 10, (t[0] + t[1]) / 10, t[2])
    ),
    max_size=12,
)


@given(turns, st.integers(0, 120), st.integers(1, 30))
def test_speaker_matches_a_brute_force_search(turns: list[Turn], begin: int, length: int) -> None:
    start, end = begin / 10, (begin + length) / 10
    found = Timeline(turns).speaker(start, end)
    totals = {
        speaker: sum(max(0.0, min(t.end, end) - max(t.start, start)) for t in turns if t.speaker == speaker)
        for speaker in {t.speaker for t in turns}
    }
    if any(total > 1e-9 for total in totals.values()):
        assert found is not None
        assert totals[found] == pytest.approx(max(totals.values()))
    elif turns:
        distances = {t.speaker: [] for t in turns}  # type: dict[str, list[float]]
        for t in turns:
            distances[t.speaker].append(max(t.start - end, start - t.end, 0.0))
        assert found is not None
        assert min(distances[found]) == pytest.approx(min(min(d) for d in distances.values()))
    else:
        assert found is None


def test_labels_come_from_the_timeline() -> None:
    labelled = label_words(words_of(" a b"), Timeline([Turn(0.0, 0.5, "x"), Turn(0.5, 1.0, "y")]))
    assert [word.speaker for word in labelled] == ["x", "y"]


# --- overlap ------------------------------------------------------------------------------------------------------


def test_overlap_is_where_two_people_speak() -> None:
    turns = [Turn(0.0, 5.0, "a"), Turn(4.0, 6.0, "b"), Turn(4.5, 7.0, "c"), Turn(6.95, 9.0, "a"), Turn(9.0, 9.5, "b")]
    overlaps = overlapped(turns)
    assert overlaps == [(4.0, 6.0)]  # but not the 50 ms of the change from c to a
    timeline = Timeline(turns, overlaps)
    assert [timeline.is_overlapped(*span) for span in ((3.0, 4.0), (3.5, 4.1), (5.0, 5.0), (5.9, 8.0), (6.0, 7.0))] == [
        *(False, True, True, True, False)
    ]
    assert not Timeline(turns).is_overlapped(0.0, 9.0)


def test_speaker_does_not_overlap_with_himself() -> None:
    assert overlapped([Turn(0.0, 5.0, "a"), Turn(1.0, 2.0, "a"), Turn(3.0, 3.0, "b")]) == []


@given(turns)
def test_overlaps_match_a_brute_force_search(turns: list[Turn]) -> None:
    turns = [Turn(turn.start * 2, turn.end * 2, turn.speaker) for turn in turns]  # so that no overlap is too short
    timeline = Timeline(turns, overlapped(turns))
    for fifth in range(140):
        middle = fifth / 5 + 0.1  # turns start and end at fifths of a second: nothing changes in between
        speakers = {turn.speaker for turn in turns if turn.start < middle < turn.end}
        assert timeline.is_overlapped(middle, middle) == (len(speakers) > 1)


def test_segment_overlaps_if_one_of_its_words_does() -> None:
    words = words_of(" I was there when you called.")
    timeline = Timeline([Turn(0.0, 3.0, "a")], [(1.1, 1.4)])
    [segment], _ = build_segments(sentences([passage_of(words)], timeline), with_words=True)
    assert [word.overlap for word in segment.words] == [False, False, True, False, False, False]
    assert segment.overlap is True
    [segment], _ = build_segments(sentences([passage_of(words)], None), with_words=True)
    assert segment.overlap is None
    assert {word.overlap for word in segment.words} == {None}


# --- the majority -------------------------------------------------------------------------------------------------


def test_majority_is_by_time_not_by_count() -> None:
    words = [*words_of(" a b c", each=0.1, speaker="x"), *words_of(" longer", 0.3, each=1.0, speaker="y")]
    assert majority(words) == "y"
    assert majority(words_of(" nobody")) is None
    assert majority([TimedWord(" x", 1.0, 1.0, None, "z")]) == "z"


def test_names_follow_the_first_appearance() -> None:
    assert in_order_of_appearance(["q", None, "p", "q"]) == {"q": "SPEAKER_00", "p": "SPEAKER_01"}


# --- sentences ----------------------------------------------------------------------------------------------------


def test_sentences_end_at_punctuation_and_nothing_is_lost() -> None:
    words = words_of(' Hello? Dr. Smith said "Go!" I live at 3.5 St. James St. Really… yes')
    parts = sentences([passage_of(words)], None)
    assert texts(parts) == ["Hello?", 'Dr. Smith said "Go!"', "I live at 3.5 St. James St. Really…", "yes"]
    assert [word for part in parts for word in part.words] == words
    assert all(part.avg_logprob == -0.25 for part in parts)


def test_initials_end_no_sentence_but_the_pronoun_does() -> None:
    parts = sentences([passage_of(words_of(" Neither did I. J. R. R. Tolkien wrote it."))], None)
    assert texts(parts) == ["Neither did I.", "J. R. R. Tolkien wrote it."]


def test_sentences_of_languages_without_spaces_keep_their_text() -> None:
    passage = passage_of(attach_marks([TimedWord(c, i, i + 1, 1.0) for i, c in enumerate("「你好」吗？我很好。")]))
    assert texts(sentences([passage], None)) == ["「你好」吗？", "我很好。"]


def test_long_pause_ends_a_sentence() -> None:
    words = [*words_of(" one two", 0.0), *words_of(" three", 2.5)]
    assert texts(sentences([passage_of(words)], None)) == ["one two", "three"]


def test_lasting_speaker_change_ends_a_sentence() -> None:
    words = words_of(" I was there when and then what happened")
    timeline = Timeline([Turn(0.0, 2.0, "a"), Turn(2.0, 4.0, "b")])
    parts = sentences([passage_of(words)], timeline)
    assert texts(parts) == ["I was there when", "and then what happened"]
    assert [majority(part.words) for part in parts] == ["a", "b"]


@pytest.mark.parametrize("border", [0.5, 1.0, 3.0, 3.5])
def test_boundary_that_is_off_by_a_word_or_two_splits_no_sentence(border: float) -> None:
    words = words_of(" I was there when you called me.")
    timeline = Timeline([Turn(0.0, border, "a"), Turn(border, 4.0, "b")])
    [part] = sentences([passage_of(words)], timeline)
    assert part.text == "I was there when you called me."
    assert {word.speaker for word in part.words} <= {"a", "b"}


def characters(text: str, start: float = 0.0, each: float = 0.2) -> list[TimedWord]:
    return attach_marks([TimedWord(c, start + i * each, start + (i + 1) * each, 1.0) for i, c in enumerate(text)])


def in_language(language: str, *words: list[TimedWord]) -> Passage:
    return replace(passage_of([word for part in words for word in part]), language=language)


def spoken_by(parts: Sequence[Sentence]) -> list[tuple[str, str]]:
    assert all(len({word.speaker for word in part.words}) == 1 for part in parts)
    return [(part.text, majority(part.words) or "") for part in parts]


@pytest.mark.parametrize(
    ("language", "first", "second"),
    [
        ("zh", "我们今天很高", "兴地来到这里"),
        ("ja", "わたしたちは今日カメ", "ラを買いました"),
        ("ja", "昨日は妹と一緒に買い", "物をしました"),
        ("ja", "それからみんなで手伝ってお", "母さんに会いました"),
        ("th", "เราจะไปเที่ยวเชียงให", "ม่ด้วยกันไหม"),
    ],
)
@pytest.mark.parametrize("pause", [0.0, 0.3, 0.8])
def test_pause_inside_a_word_gives_no_part_of_it_to_another_speaker(
    language: str, first: str, second: str, pause: float
) -> None:
    change = len(first) * 0.1
    words = [characters(first, each=0.1), characters(second, change + pause, each=0.1)]
    timeline = Timeline([Turn(0.0, change, "a"), Turn(change + pause, 9.0, "b")])
    parts = sentences([in_language(language, *words)], timeline)
    assert "".join(text for text, _ in spoken_by(parts)) == first + second
    assert not any(text.endswith(first[-1]) for text, _ in spoken_by(parts))


def test_speaker_changes_between_clauses_of_a_language_without_spaces() -> None:
    words = characters("你们今天去哪里，我们要去北京看朋友")
    parts = sentences([in_language("zh", words)], Timeline([Turn(0.0, 1.6, "a"), Turn(1.6, 9.0, "b")]))
    assert spoken_by(parts) == [("你们今天去哪里，", "a"), ("我们要去北京看朋友", "b")]


def test_speaker_changes_between_words_that_the_script_or_whisper_shows() -> None:
    words = characters("東京へ行きました大阪も見ました")
    parts = sentences([in_language("ja", words)], Timeline([Turn(0.0, 1.7, "a"), Turn(1.7, 9.0, "b")]))
    assert spoken_by(parts) == [("東京へ行きました", "a"), ("大阪も見ました", "b")]
    tokens = [TimedWord(text, at, at + 1.0, 1.0) for at, text in enumerate(["我", "想要", "这个", "你们", "没", "有"])]
    parts = sentences([in_language("zh", tokens)], Timeline([Turn(0.0, 3.1, "a"), Turn(3.1, 9.0, "b")]))
    assert spoken_by(parts) == [("我想要这个", "a"), ("你们没有", "b")]


def test_long_text_without_marks_changes_the_speaker_at_its_longest_pauses() -> None:
    words = [*characters("我" * 20), *characters("你" * 20, 4.3), *characters("他" * 20, 8.9)]
    timeline = Timeline([Turn(0.0, 4.1, "a"), Turn(4.1, 8.5, "b"), Turn(8.5, 13.0, "a")])
    parts = sentences([in_language("zh", words)], timeline)
    assert spoken_by(parts) == [("我" * 20, "a"), ("你" * 20, "b"), ("他" * 20, "a")]


@given(st.text("今日はカメラ、。 ab", min_size=1, max_size=40), st.sampled_from(["ja", "zh", "th"]), st.integers(1, 20))
def test_no_character_is_lost_in_languages_without_spaces(text: str, language: str, each: int) -> None:
    words = characters(text, each=each / 10)
    found = [word for unit in units(words, language) for word in unit]
    assert found == words


def test_flicker_inside_a_sentence_is_no_other_speaker() -> None:
    words = words_of(" I was there when you called me.", each=0.25)
    timeline = Timeline([Turn(0.0, 0.75, "a"), Turn(0.75, 1.0, "b"), Turn(1.0, 9.0, "a")])
    [part] = sentences([passage_of(words)], timeline)
    assert {word.speaker for word in part.words} == {"a"}
    slower = [replace(word, start=word.start * 2, end=word.end * 2) for word in words]
    timeline = Timeline([Turn(0.0, 1.5, "a"), Turn(1.5, 2.0, "b"), Turn(2.0, 9.0, "a")])
    [part] = sentences([passage_of(slower)], timeline)
    assert [word.speaker for word in part.words] == ["a", "a", "a", "b", "a", "a", "a"]


def test_hasty_change_splits_no_sentence() -> None:
    words = words_of(" one two three four five six seven", each=0.09)
    timeline = Timeline([Turn(0.0, 0.27, "a"), Turn(0.27, 9.0, "b")])
    assert texts(sentences([passage_of(words)], timeline)) == ["one two three four five six seven"]


def test_segments_are_named_in_order_of_appearance() -> None:
    first, second = words_of(" Yes I do.", 0.0, speaker="zoe"), words_of(" No you do not.", 3.0, speaker="ann")
    segments, names = build_segments([Sentence(first, -0.1, "en"), Sentence(second, None, "en")], with_words=True)
    assert names == {"zoe": "SPEAKER_00", "ann": "SPEAKER_01"}
    assert [segment.speaker for segment in segments] == ["SPEAKER_00", "SPEAKER_01"]
    assert segments[0].words[0].word == "Yes"
    assert (segments[1].start, segments[1].end) == (3.0, 5.0)
    without, names = build_segments([Sentence(first, -0.1, "en")], with_words=False)
    assert without[0].words == []
    assert names == {"zoe": "SPEAKER_00"}


@pytest.mark.parametrize(
    ("scores", "avg_logprob", "expected"),
    [
        ([0.9, 0.5], -0.1, 0.7),
        ([0.9, None], -0.1, 0.9),
        ([None, None], -0.25, 0.7788),  # Whisper's own mean
        ([None, None], 0.01, 1.0),
        ([None, None], None, None),
    ],
)
def test_confidence_is_the_mean_of_the_words(
    scores: list[float | None], avg_logprob: float | None, expected: float | None
) -> None:
    words = [replace(word, score=score) for word, score in zip(words_of(" a b"), scores, strict=True)]
    [segment], _ = build_segments([Sentence(words, avg_logprob, "en")], with_words=True)
    assert segment.confidence == expected


def test_long_word_counts_for_more() -> None:
    words = [TimedWord(" a", 0.0, 0.1, 0.2), TimedWord(" telephone", 0.1, 1.0, 0.9), TimedWord(" I", 1.0, 1.0, 0.5)]
    assert confidence(Sentence(words, None, "en")) == pytest.approx((0.1 * 0.2 + 0.9 * 0.9 + 0.001 * 0.5) / 1.001)


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "found", "expected"),
    [
        ({"num_speakers": 2}, 2, None),
        ({"num_speakers": 3}, 1, "num_speakers is 3, but the transcript has 1 speaker"),
        ({"num_speakers": 1}, 2, "num_speakers is 1, but the transcript has 2 speakers"),
        ({"min_speakers": 8}, 7, "min_speakers is 8, but the transcript has 7 speakers"),
        ({"min_speakers": 8}, 9, None),
        ({"max_speakers": 2}, 3, "max_speakers is 2, but the transcript has 3 speakers"),
        ({"max_speakers": 2}, 0, None),
        ({"min_speakers": 1}, 0, "min_speakers is 1, but the transcript has 0 speakers"),
        ({"min_speakers": 2, "max_speakers": 3}, 4, "max_speakers is 3, but the transcript has 4 speakers"),
    ],
)
def test_only_the_jobs_own_bounds_can_be_unmet(bounds: dict[str, int], found: int, expected: str | None) -> None:
    assert unmet_bound(_bounded(bounds, own=list(bounds)), found) == expected
    assert unmet_bound(_bounded(bounds, own=[]), found) is None


def _bounded(bounds: dict[str, int], own: list[str]) -> JobOptions:
    values: dict[str, Any] = {**dict.fromkeys(get_args(SpeakerBound)), **bounds, "own_speaker_bounds": own}
    return JobOptions.model_construct(**values)
