"""Checkpoints as files, and which files are rejected when they are read back."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.pipeline.checkpoints import parts as saved
from daemon.pipeline.checkpoints.parts import SavedGroup, SavedTurns, SavedWords
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.types import Chunk, Diarization, Passage, TimedWord, Turn
from daemon.schema.transcript import TranscriptWarning

CHUNKS = [Chunk(0.1, 10.3, ((0.1, 4.0), (5.0, 10.3))), Chunk(12.0, 20.0, ((12.0, 20.0),))]
WORDS = [TimedWord(" Héllo", 0.1 + 0.2, 1 / 3, 0.9), TimedWord(" there.", 1.5, 2.0, None)]
WARNING = TranscriptWarning(code="batch_reduced", stage="asr", message="not enough memory")


def group() -> SavedGroup:
    spoken = Passage(CHUNKS[0], " Héllo there.", -0.25, [50256, 3], list(WORDS), language="en")
    return SavedGroup.of(
        CHUNKS,
        [[spoken], [Passage(CHUNKS[1], "", None, language="de")]],
        [(1.0, 2.0)],
        language="en",
        compute_type="int8",
        with_words=True,
        warnings=[WARNING],
    )


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, lambda _: None)


def test_file_is_announced_once_it_is_complete(tmp_path: Path) -> None:
    announced: list[tuple[str, Any]] = []
    checkpoints = Checkpoints(
        tmp_path, lambda name: announced.append((name, json.loads((tmp_path / name).read_text())))
    )
    checkpoints.save("a.json", {"x": 1})
    assert announced == [("a.json", {"x": 1})]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert checkpoints.load("a.json") == {"x": 1}


def test_job_continues_when_a_checkpoint_cannot_be_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    announced: list[str] = []
    Checkpoints(tmp_path / "gone", announced.append).save("a.json", {})
    assert announced == []
    assert [vars(record)["checkpoint"] for record in caplog.records] == ["a.json"]
    assert "checkpoint not written" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\xfd", b"[" * 200_000], ids=["empty", "cut", "binary", "deep"]
)
def test_damaged_file_is_ignored(
    tmp_path: Path, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    assert checkpoints.load("a.json") is None
    assert caplog.text == ""
    (tmp_path / "a.json").write_bytes(content)
    assert checkpoints.load("a.json") is None
    assert [(record.message, vars(record)["checkpoint"]) for record in caplog.records] == [
        ("checkpoint damaged, part will be repeated", "a.json")
    ]


def test_group_round_trips(checkpoints: Checkpoints) -> None:
    saved.save(checkpoints, "asr-00000.json", group())
    found = saved.load(checkpoints, "asr-00000.json", SavedGroup, lambda it: it.fits(CHUNKS))
    assert found is not None
    assert found.restore(CHUNKS) == [
        [Passage(CHUNKS[0], " Héllo there.", -0.25, [50256, 3], WORDS, language="en")],
        [Passage(CHUNKS[1], "", None, [], [], language="de")],
    ]
    assert found.warnings == [WARNING]
    assert (found.language, found.compute_type, found.with_words) == ("en", "int8", True)


def test_words_and_turns_round_trip(checkpoints: Checkpoints) -> None:
    spoken = Passage(CHUNKS[0], " Héllo there.", -0.25, [], list(WORDS), language="en")
    saved.save(checkpoints, "w.json", SavedWords.of("wav2vec2", [spoken], [WARNING]))
    bare = Passage(CHUNKS[0], " Héllo there.", -0.25, language="en")
    words = saved.load(checkpoints, "w.json", SavedWords, lambda it: it.fits([bare]))
    assert words is not None
    words.restore([bare])
    assert bare.words == WORDS
    assert words.warnings == [WARNING]

    turns = [Turn(0.1 + 0.2, 1.0, "B"), Turn(0.5, 2 / 3, "A")]
    diarization = Diarization(turns, turns[:1], {"A": [0.6, -0.8]})
    saved.save(checkpoints, "d.json", SavedTurns.of("embedded", diarization, [WARNING]))
    found = saved.load(checkpoints, "d.json", SavedTurns, SavedTurns.fits)
    assert found is not None
    assert found.restore() == diarization
    assert found.warnings == [WARNING]


def put(*path: Any) -> Callable[[Any], None]:
    """Return a function that sets the value at a path to the last argument."""

    def change(data: Any) -> None:
        *way, key, value = path
        for step in way:
            data = data[step]
        data[key] = value

    return change


SPOKEN = ("chunks", 0, "passages", 0)

SPOILED = {
    "another chunk": put("chunks", 1, "end", 20.1),
    "too few chunks": lambda data: data["chunks"].pop(),
    "an invalid chunk": put("chunks", 1, "secret"),
    "no chunks": put("chunks", None),
    "a passage outside its chunk": put(*SPOKEN, "end", 11.0),
    "a passage that ends before it starts": put(*SPOKEN, "end", 0.05),
    "a word outside its passage": put(*SPOKEN, "words", 1, [" there.", 1.5, 99.0, None]),
    "words out of order": put(*SPOKEN, "words", 1, [" there.", 0.2, 0.25, None]),
    "a word without end": put(*SPOKEN, "words", 1, [" there.", 1.5]),
    "an invalid time": put(*SPOKEN, "words", 1, [" there.", 1.5, float("nan"), None]),
    "an invalid score": put(*SPOKEN, "words", 1, [" there.", 1.5, 2.0, float("inf")]),
    "an invalid log-probability": put(*SPOKEN, "avg_logprob", float("nan")),
    "a token that Whisper does not have": put(*SPOKEN, "tokens", [60_000]),
    "a negative token": put(*SPOKEN, "tokens", [-1]),
    "an invalid text": put(*SPOKEN, "text", {"secret": 1}),
    "an invalid warning": put("warnings", ["secret"]),
    "more than there should be": put("secret", 1),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_invalid_group_is_ignored(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture, spoil: Callable[[Any], None]
) -> None:
    data = group().model_dump(mode="json")
    spoil(data)
    checkpoints.save("asr-00000.json", data)
    with caplog.at_level(logging.DEBUG):
        assert saved.load(checkpoints, "asr-00000.json", SavedGroup, lambda it: it.fits(CHUNKS)) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert [vars(record)["checkpoint"] for record in caplog.records] == ["asr-00000.json"]
    assert "secret" not in caplog.text
    assert "there" not in caplog.text


@pytest.mark.parametrize(
    "passages",
    [
        [],
        [[[" Héllo", 0.3, 0.4, 0.9]]],  # a word is missing
        [[[" Hello", 0.3, 0.4, 0.9], [" there.", 1.5, 2.0, None]]],  # a different text
        [[[" Héllo", 0.3, 0.4, 0.9], [" there.", 1.5, 11.0, None]]],  # outside the chunk
    ],
)
def test_words_of_another_text_are_ignored(checkpoints: Checkpoints, passages: Any) -> None:
    checkpoints.save("w.json", {"aligner": "wav2vec2", "passages": passages, "warnings": []})
    bare = Passage(CHUNKS[0], " Héllo there.", -0.25, language="en")
    assert saved.load(checkpoints, "w.json", SavedWords, lambda it: it.fits([bare])) is None


def test_passage_that_could_not_be_aligned_has_no_words(checkpoints: Checkpoints) -> None:
    bare = Passage(CHUNKS[0], " Héllo there.", -0.25, language="en")
    saved.save(checkpoints, "w.json", SavedWords.of("wav2vec2", [bare], []))
    words = saved.load(checkpoints, "w.json", SavedWords, lambda it: it.fits([bare]))
    assert words is not None
    words.restore([bare])
    assert bare.words == []


TURNS = {"diarizer": "embedded", "turns": [[0.0, 1.0, "A"]], "exclusive": [], "voices": {"A": [1.0]}, "warnings": []}


@pytest.mark.parametrize("turn", [[2.0, 1.0, "A"], [0.0, float("inf"), "A"], [0.0, 1.0, 3], [0.0, 1.0], "A"])
@pytest.mark.parametrize("which", ["turns", "exclusive"])
def test_invalid_turns_are_ignored(checkpoints: Checkpoints, which: str, turn: Any) -> None:
    checkpoints.save("d.json", TURNS)
    assert saved.load(checkpoints, "d.json", SavedTurns, SavedTurns.fits) is not None
    checkpoints.save("d.json", {**TURNS, which: [turn]})
    assert saved.load(checkpoints, "d.json", SavedTurns, SavedTurns.fits) is None


@pytest.mark.parametrize("voices", [{"A": [float("nan")]}, {"A": "x"}, {"A": None}, [1.0]])
def test_invalid_voices_are_ignored(checkpoints: Checkpoints, voices: Any) -> None:
    checkpoints.save("d.json", {**TURNS, "voices": voices})
    assert saved.load(checkpoints, "d.json", SavedTurns, SavedTurns.fits) is None


def test_parts_of_a_job_have_distinct_names(tmp_path: Path) -> None:
    told: list[str] = []
    whole = Checkpoints(tmp_path, told.append)
    for number in range(2):
        whole.part(f"channel-{number:02}").save("asr-00000.json", number)
    assert told == ["channel-00-asr-00000.json", "channel-01-asr-00000.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == told
    assert [whole.part(f"channel-{number:02}").load("asr-00000.json") for number in range(2)] == [0, 1]
    assert whole.load("asr-00000.json") is None
