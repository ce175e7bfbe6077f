"""Messages from untrusted senders through the real queue client: received and dead-lettered unchanged, or ignored."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.aws.queues import open_queues
from daemon.aws.sqs import Queue, ReceivedMessage
from daemon.config import Settings
from daemon.demo.aws import EmbeddedAws
from daemon.errors import InvalidJson
from daemon.telemetry.metrics import Metrics
from tests.support.aws.dead_letters import more_of
from tests.support.builders import some_settings


@pytest.fixture(scope="module")
def aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws() as aws, pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        yield aws


def settings_on(aws: EmbeddedAws) -> Settings:
    return some_settings(queue_url=aws.queue_url, dlq_url=aws.dlq_url, receive_wait_time_seconds=1)


# What SQS accepts in a send: text is what XML allows, names use a narrow alphabet.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), min_size=1)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,200}", fullmatch=True) | st.sampled_from(["ErrorCode", "Failure"])
SUFFIXES = st.sampled_from(["", ".foo", ".json"])
VALUES = st.one_of(
    st.builds(lambda suffix, text: {"DataType": f"String{suffix}", "StringValue": text}, SUFFIXES, TEXT),
    st.builds(lambda number: {"DataType": "Number", "StringValue": str(number)}, st.integers()),
    st.builds(
        lambda suffix, data: {"DataType": f"Binary{suffix}", "BinaryValue": data}, SUFFIXES, st.binary(min_size=1)
    ),
)


@settings(max_examples=15, deadline=None)
@given(body=TEXT, attributes=st.dictionaries(NAMES, VALUES, max_size=10))
def test_any_message_is_received_and_dead_lettered_unchanged(
    aws: EmbeddedAws, body: str, attributes: dict[str, Any]
) -> None:
    async def through() -> ReceivedMessage:
        async with open_queues(settings_on(aws), Metrics()) as (queue,):
            (message,) = await queue.receive(1)
            await queue.dead_letter(message, InvalidJson("the body is not JSON"), 1)
            await queue.delete(message)
            return message

    aws.sqs.send_message(QueueUrl=aws.queue_url, MessageBody=body, MessageAttributes=attributes)
    message = asyncio.run(through())
    assert (message.body, message.receive_count) == (body, 1)
    (letter,) = aws.sqs.receive_message(QueueUrl=aws.dlq_url, MessageAttributeNames=["All"], WaitTimeSeconds=1)[
        "Messages"
    ]
    aws.sqs.delete_message(QueueUrl=aws.dlq_url, ReceiptHandle=letter["ReceiptHandle"])
    assert letter["Body"] == body
    copy: dict[str, Any] = dict(letter["MessageAttributes"])
    assert copy["ErrorCode"]["StringValue"] == json.loads(copy["Failure"]["StringValue"])["code"] == "invalid_json"
    theirs = {name: value for name, value in copy.items() if name not in ("ErrorCode", "Failure")}
    assert theirs | more_of(copy) == attributes


# --- responses that SQS never sends, but a proxy in between might


class Stub:
    """A client whose receive returns the given response."""

    def __init__(self, messages: Any) -> None:
        self.messages = messages

    async def receive_message(self, **_: Any) -> dict[str, Any]:
        return {"Messages": self.messages}


WHOLE: dict[str, Any] = {
    "MessageId": "m-1",
    "ReceiptHandle": "r-1",
    "Body": "{}",
    "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000"},
}
ODD = st.none() | st.text() | st.integers() | st.just("9" * 400) | st.dictionaries(st.text(), st.text())


def without(*path: str) -> dict[str, Any]:
    message = {**WHOLE, "Attributes": dict(WHOLE["Attributes"])}
    holder = message if len(path) == 1 else message[path[0]]
    del holder[path[-1]]
    return message


@asynccontextmanager
async def queue_of(*messages: Any) -> AsyncIterator[Queue]:
    yield Queue(Stub(list(messages)), some_settings(), some_settings().queues[0])  # type: ignore[arg-type]  # all that receive() calls


@pytest.mark.parametrize(
    "path",
    [
        ("MessageId",),
        ("ReceiptHandle",),
        ("Body",),
        ("Attributes",),
        ("Attributes", "ApproximateReceiveCount"),
        ("Attributes", "SentTimestamp"),
    ],
    ids="-".join,
)
async def test_incomplete_message_is_ignored(path: tuple[str, ...], caplog: Any) -> None:
    caplog.set_level(logging.ERROR)
    async with queue_of(without(*path), WHOLE) as queue:
        (message,) = await queue.receive(10)
    assert message.message_id == "m-1"
    (line,) = caplog.records
    assert line.message == "message not understood"
    assert path[-1] in line.error


ODD_MESSAGES = st.one_of(
    st.builds(lambda name, value: {**WHOLE, name: value}, st.sampled_from(["Attributes", "MessageAttributes"]), ODD),
    st.builds(
        lambda name, value: {**WHOLE, "Attributes": {**WHOLE["Attributes"], name: value}},
        st.sampled_from(["ApproximateReceiveCount", "SentTimestamp"]),
        ODD,
    ),
)


@settings(deadline=None)
@given(ODD_MESSAGES)
def test_unusual_system_attributes_never_raise(odd: dict[str, Any]) -> None:
    async def receive() -> list[ReceivedMessage]:
        async with queue_of(odd, WHOLE) as queue:
            return await queue.receive(10)

    assert asyncio.run(receive())[-1].receipt_handle == "r-1"
