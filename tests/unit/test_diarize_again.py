"""New speakers for the words of an earlier transcript: pure functions, no model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.diarization.speakers import Timeline, overlapped
from daemon.pipeline.job.diarize_again import relabelled
from daemon.pipeline.job.segments import build_segments, sentences
from daemon.pipeline.types import Chunk, Passage, TimedWord, Turn
from daemon.privacy import protect
from daemon.schema.transcript import Segment, Transcript, Word
from tests.support.transcripts import transcript

TEXTS = st.sampled_from([" yes", " I", " know.", " Really?", " no,", " well", " 3.5", "-like", " [EMAIL]"])


@st.composite
def passages(draw: st.DrawFn) -> list[Passage]:
    found, now = [], 0.0
    for number in range(draw(st.integers(1, 4))):
        words = []
        for text in draw(st.lists(TEXTS, min_size=1, max_size=12)):
            now += draw(st.sampled_from([0.0, 0.1, 1.5]))
            words.append(TimedWord(text, round(now, 3), round(now + 0.2, 3), draw(st.sampled_from([None, 0.5]))))
            now += 0.2
        words[0] = TimedWord(" " + words[0].text.strip("- "), words[0].start, words[0].end, words[0].score)
        chunk = Chunk(words[0].start, words[-1].end, ((words[0].start, words[-1].end),))
        text = "".join(word.text for word in words)
        found.append(Passage(chunk, text, -0.1 * (number + 1), words=words, language="en"))
    return found


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    turns = draw(
        st.lists(st.builds(Turn, st.floats(0, 20), st.floats(0, 20), st.sampled_from("abc")), min_size=1, max_size=6)
    )
    ordered = [Turn(min(turn.start, turn.end), max(turn.start, turn.end), turn.speaker) for turn in turns]
    return Timeline(ordered, overlapped(ordered))


def spoken(found: list[Segment]) -> list[tuple[Any, ...]]:
    return [(word.word, word.start, word.end, word.score) for segment in found for word in segment.words]


@given(passages(), timelines() | st.none(), timelines())
def test_result_is_that_of_the_first_diarization(said: list[Passage], first: Timeline | None, second: Timeline) -> None:
    """Whatever the first speakers were, the second ones get the segments that they would have had at once."""
    before, _ = build_segments(sentences(said, first), with_words=True)
    expected, names = build_segments(sentences(said, second), with_words=True)
    again, found = relabelled(transcript(*before), second)
    assert spoken(again) == spoken(before)
    assert found == names
    assert [segment.model_dump(exclude={"confidence"}) for segment in again] == [
        segment.model_dump(exclude={"confidence"}) for segment in expected
    ]


def some_segment(text: str, start: float, **changes: Any) -> Segment:
    words = [
        Word(word=word, start=start + index, end=start + index + 0.5, score=0.9, speaker=None, overlap=None)
        for index, word in enumerate(text.split())
    ]
    fields: dict[str, Any] = {
        "start": start,
        "end": words[-1].end,
        "text": text,
        "speaker": "SPEAKER_00",
        "overlap": None,
        "language": "en",
        "confidence": 0.4,
        "avg_logprob": -0.2,
        "words": words,
    }
    return Segment(**fields | changes)


TURNS = Timeline([Turn(0, 10, "x"), Turn(10, 20, "y"), Turn(20, 30, "x")])


def relabelled_segments(*segments: Segment) -> list[Segment]:
    return relabelled(transcript(*segments), TURNS)[0]


def test_segments_without_words_stay_whole_among_others() -> None:
    before = [some_segment("One two three.", 2), some_segment("Four five.", 12, words=[]), some_segment("Six.", 22)]
    after = relabelled_segments(*before)
    assert [segment.speaker for segment in after] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]
    assert [segment.text for segment in after] == [segment.text for segment in before]
    assert [segment.confidence for segment in after] == [0.4, 0.4, 0.4], "that of the same words stays"
    assert after[1] == before[1].model_copy(update={"speaker": "SPEAKER_01", "overlap": False})


def test_sentence_that_an_earlier_diarization_cut_is_whole_again() -> None:
    (after,) = relabelled_segments(some_segment("I do not", 0), some_segment("think so.", 3, speaker="SPEAKER_01"))
    assert after.confidence == 0.9, "computed from its words"
    assert (after.text, after.speaker) == ("I do not think so.", "SPEAKER_00")
    assert {word.speaker for word in after.words} == {"SPEAKER_00"}


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_language_without_spaces_gets_none(language: str) -> None:
    words = [
        Word(word=char, start=index, end=index + 0.5, score=None, speaker=None, overlap=None)
        for index, char in enumerate("買い物")
    ]
    before = some_segment("買い物", 0, words=words, language=language, end=2.5)
    (after,) = relabelled_segments(before)
    assert after.text == "買い物"


def test_words_stay_even_if_they_do_not_match_the_text() -> None:
    before = some_segment("One two.", 2).model_copy(update={"text": "entirely different"})
    after = relabelled_segments(before)
    assert spoken(after) == spoken([before])


def test_redacted_words_stay_redacted() -> None:
    before: Transcript = protect(transcript(some_segment("Write to jane@example.com today.", 2)), ["email"], ())
    after, _ = relabelled(before, TURNS)
    assert [segment.text for segment in after] == ["Write to [EMAIL] today."]
    assert protect(before, ["email", "phone", "url", "card", "iban", "ssn"], ()) == before, (
        "a second search finds nothing more"
    )
