"""The messages between the processes: they survive the wire, and nothing else is taken for one."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.protocol import Message, Progress, Ready, Run, decode, encode, type_names

MESSAGES = st.one_of([st.from_type(cls) for cls in type_names.values() if cls not in (Run, Progress, Ready)])


@given(MESSAGES)
def test_messages_survive_the_wire(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_every_message_names_its_fields() -> None:
    for cls in type_names.values():
        assert all(field.name.isidentifier() for field in fields(cls))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello\n",
        b"[]\n",
        b'{"type": "Nope"}\n',
        b'{"type": "Cancel"}\n',
        b'{"type": "Cancel", "job_id": "a", "x": 1}\n',
    ],
)
def test_nothing_else_is_a_message(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(line)
