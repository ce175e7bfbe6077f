"""Reading a stored transcript.json, which anyone with write access to the bucket may have replaced."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import TranscriptUnavailable
from daemon.outputs import json_document, render
from daemon.schema.stored_transcript import MAX_TRANSCRIPT_BYTES, parse_transcript
from tests.support.transcripts import segment, transcript, word

SAID = transcript(segment("Hello there.", 0, 2, "SPEAKER_00", (word("Hello", 0), word("there.", 1))))
FIELDS: dict[str, Any] = json.loads(json_document.render(SAID))


def refused(body: bytes) -> str:
    with pytest.raises(TranscriptUnavailable) as caught:
        parse_transcript(body, "s3://b/k")
    assert caught.value.message.startswith("s3://b/k ")
    return caught.value.message


def changed(**fields: Any) -> bytes:
    return json.dumps(FIELDS | fields).encode()


def with_segment(**fields: Any) -> bytes:
    return changed(segments=[FIELDS["segments"][0] | fields])


def with_word(**fields: Any) -> bytes:
    return with_segment(words=[FIELDS["segments"][0]["words"][0] | fields])


def test_own_transcript_is_read_as_it_was_written() -> None:
    assert parse_transcript(json_document.render(SAID).encode(), "") == SAID


def test_keys_of_a_later_release_are_ignored() -> None:
    later = {**FIELDS, "later": 1, "models": {**FIELDS["models"], "later": {}}}
    later["segments"] = [{**FIELDS["segments"][0], "later": []}]
    assert parse_transcript(json.dumps(later).encode(), "") == SAID


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        changed(schema_version="2.0"),
        changed(segments={}),
        changed(duration_seconds=-1e300),
        changed(duration_seconds=1e300),
        changed(start_seconds=-5),
        changed(duration_seconds=float("nan")),
        changed(language_probability=float("inf")),
        changed(speaker_embeddings={"SPEAKER_00": [float("nan")]}),
        changed(speakers=["x" * 101]),
        changed(speakers=["x"] * 1001),
        with_segment(start=2.5),
        with_segment(end=1e12),
        with_segment(text="x" * 20_001),
        with_segment(text="\ud800"),
        with_segment(speaker="x" * 101),
        with_segment(avg_logprob=float("-inf")),
        with_segment(words=[FIELDS["segments"][0]["words"][0]] * 2001),
        with_word(start=-1),
        with_word(start=float("nan")),
        with_word(score=float("nan")),
        with_word(word="x" * 20_001),
        with_word(speaker="x" * 101),
        with_word(end=0.1, start=0.2),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_no_pipeline_writes_is_refused(body: bytes) -> None:
    assert len(refused(body)) < 300


def test_error_does_not_quote_the_content() -> None:
    assert "secret" not in refused(with_segment(start="secret"))
    assert "secret" not in refused(with_segment(speaker="secret" * 100))


def test_large_file_is_refused_before_it_is_parsed() -> None:
    assert "is larger than" in refused(b" " * (MAX_TRANSCRIPT_BYTES + 1))


VALUES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
)


@given(st.data())
def test_no_value_in_any_place_causes_another_error(data: st.DataObject) -> None:
    """Change one value anywhere: the transcript is refused, or every format can write it."""
    fields = json.loads(json.dumps(FIELDS))
    place: Any = fields
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner and data.draw(st.booleans())):
            place[key] = data.draw(VALUES)
            break
        place = inner
    try:
        found = parse_transcript(json.dumps(fields).encode("utf-8", "surrogatepass"), "")
    except TranscriptUnavailable:
        return
    assert len(render(found, ["json", "md", "txt", "srt", "vtt", "ass", "tsv", "html"])) == 8
