"""The messages between the processes: they round-trip, and nothing else is accepted."""

import json
from dataclasses import fields, replace
from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.protocol.events import PipelineEvent, Progress
from daemon.protocol.messages import Cancel, JobEvent, RunnerMessage, Setup, decode, encode
from daemon.protocol.priority import Priority
from daemon.protocol.runner_settings import RunnerSettings


def every(union: Any, of_type: dict[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Generate any value of any class of the union; fields of the given types come from their strategies."""

    def values(cls: Any) -> st.SearchStrategy[Any]:
        return st.builds(
            cls,
            **{
                it.name: of_type[it.type] if it.type in of_type else st.from_type(cast(type, it.type))
                for it in fields(cls)
            },
        )

    return st.one_of([values(cls) for cls in get_args(union)])


NUMBERS = st.floats(allow_nan=False)
JSON_OBJECTS = st.dictionaries(st.text(), st.none() | st.booleans() | st.text() | st.lists(st.integers()))
PRIORITIES = st.builds(Priority, st.integers(0, 9), st.none() | st.floats(0.1, 1000))
EVENTS = every(PipelineEvent, {float: NUMBERS})
MESSAGES = every(
    RunnerMessage, {float: NUMBERS, dict[str, Any]: JSON_OBJECTS, PipelineEvent: EVENTS, Priority: PRIORITIES}
)


@given(MESSAGES)
def test_messages_round_trip(message: RunnerMessage) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_events_round_trip_with_their_type() -> None:
    assert decode(encode(JobEvent("job", Progress("asr", 0.5)))) == JobEvent("job", Progress("asr", 0.5))
    assert decode(encode(JobEvent("job", Progress("asr", 0.5)))) != JobEvent("job", Progress("vad", 0.5))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello\n",
        b"[]\n",
        b'{"type": "Nope"}\n',
        b'{"type": "Cancel"}\n',
        b'{"type": "Cancel", "job_id": "a", "x": 1}\n',
        b'{"type": ["Cancel"], "job_id": "a"}\n',
        b'{"type": "Progress", "stage": "asr", "fraction": 0.5}\n',  # not a job's event
        b'{"type": "JobEvent", "job_id": "a"}\n',
        b'{"type": "JobEvent", "job_id": "a", "event": null}\n',
        b'{"type": "JobEvent", "job_id": "a", "event": {"type": "Cancel", "job_id": "a"}}\n',
        b'{"type": "JobEvent", "job_id": "a", "event": {"type": "Progress", "stage": "asr"}}\n',
        b'{"type": "Setup", "pipeline": "a:B", "settings": {"model": "x"}, "log_level": "INFO", "parent_pid": 1}\n',
    ],
)
def test_anything_else_is_rejected(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(line)


SETTINGS = RunnerSettings(
    "base", (), 1, "cpu", "int8", 8, (), 0, "embedded", ("en=/models/a",), "hf_secret", None, False
)


def test_token_is_in_no_error_and_no_repr() -> None:
    setup = Setup("module:Class", SETTINGS, "INFO", 1, ["/run/credentials"], False)
    assert "hf_secret" not in repr(setup)
    data = json.loads(encode(setup))
    data["settings"]["more"] = 1
    with pytest.raises(ValueError, match="unexpected or missing fields") as caught:
        decode(json.dumps(data).encode())
    assert "hf_secret" not in str(caught.value)


def test_settings_are_equal_after_a_round_trip_only_to_themselves() -> None:
    setup = Setup("module:Class", SETTINGS, "INFO", 1, [], True)
    assert decode(encode(setup)) == setup
    assert decode(encode(setup)) != replace(setup, settings=replace(SETTINGS, batch_size=9))
    assert decode(encode(Cancel("a"))) == Cancel("a")
