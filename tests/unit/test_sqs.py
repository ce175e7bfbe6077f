"""The queue adapter: requests and responses on the wire, exact to the millisecond and the character."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from daemon.aws.sqs import MAX_MESSAGE_CHARS, MAX_TRACEBACK_CHARS, Queue
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.errors import RunnerCrashed
from tests.support.aws.fakes import received
from tests.support.time.virtual import in_virtual_time, virtual_time

MakeSettings = Callable[..., Settings]
DISTINCT = "".join(
    map(chr, range(0x4E00, 0x4E00 + 10_000))
)  # no character twice, so that any other slice is a different text


class RecordingSqs:
    """An SQS client that accepts everything; `messages` are returned by a receive."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.calls: list[dict[str, Any]] = []

    async def receive_message(self, **request: Any) -> dict[str, Any]:
        self.calls.append(request)
        return {"Messages": self.messages}

    async def change_message_visibility(self, **request: Any) -> dict[str, Any]:
        self.calls.append(request)
        return {}

    async def send_message(self, **request: Any) -> dict[str, Any]:
        self.calls.append(request)
        return {"MessageId": "copy"}


def queue_of(sqs: RecordingSqs, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> Queue:
    return Queue(sqs, settings, settings.queues[0], clock)  # type: ignore[arg-type]


@in_virtual_time
async def test_age_of_a_message_counts_from_when_it_was_sent(make_settings: MakeSettings) -> None:
    message = {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": "{}",
        "Attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1800000000123"},
    }
    sqs = RecordingSqs(message)
    asked_at = virtual_time().monotonic()
    (found,) = await queue_of(sqs, make_settings(visibility_timeout_seconds=120), virtual_time()).receive(20)
    assert (found.sent_at, found.receive_count) == (1_800_000_000.123, 3)
    assert found.leased_at == pytest.approx(asked_at, abs=0.001)
    assert (sqs.calls[0]["MaxNumberOfMessages"], sqs.calls[0]["VisibilityTimeout"]) == (10, 120)


@pytest.mark.parametrize(
    ("group_id", "tenant"),
    [
        ("acme", "acme"),
        ("!" * 128, "!" * 128),
        ('a"b\\c', 'a"b\\c'),
        ("!" * 129, None),
        ("", None),
        ("two words", None),
        ("línea", None),
        ("a\nb", None),
        ("acme\n", None),
        (7, None),
        (None, None),
    ],
)
async def test_tenant_is_a_group_id_that_sqs_accepts(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture, group_id: Any, tenant: str | None
) -> None:
    message = {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": "{}",
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1", "MessageGroupId": group_id},
    }
    sqs = RecordingSqs(message)
    (found,) = await queue_of(sqs, make_settings()).receive(1)
    assert found.tenant == tenant
    assert "MessageGroupId" in sqs.calls[0]["MessageSystemAttributeNames"]
    ignored = [line.message for line in caplog.records]
    assert ignored == (["message group ID ignored"] if group_id is not None and tenant is None else [])


@pytest.mark.parametrize("tenant", ["acme", None])
async def test_dead_letter_is_in_the_group_of_its_message(make_settings: MakeSettings, tenant: str | None) -> None:
    sqs = RecordingSqs()
    await queue_of(sqs, make_settings()).dead_letter(received(tenant=tenant), RunnerCrashed("it died"), attempt=1)
    assert sqs.calls[0].get("MessageGroupId", "absent") == (tenant or "absent")


async def test_dead_letter_has_the_start_of_the_message_and_the_end_of_the_traceback(
    make_settings: MakeSettings,
) -> None:
    sqs = RecordingSqs()
    error = RunnerCrashed(DISTINCT, detail=DISTINCT)
    await queue_of(sqs, make_settings()).dead_letter(received("{}", receive_count=4), error, attempt=2)
    (request,) = sqs.calls
    failure = json.loads(request["MessageAttributes"]["Failure"]["StringValue"])
    assert failure["message"] == DISTINCT[:MAX_MESSAGE_CHARS]
    assert failure["traceback"] == DISTINCT[-MAX_TRACEBACK_CHARS:]
    assert (failure["code"], failure["attempt"], failure["receive_count"]) == ("runner_crashed", 2, 4)


@pytest.mark.parametrize(
    ("held_seconds", "delay_seconds", "hidden_seconds"),
    [
        (0, 0.2, 1),  # never visible early
        (0, 7, 7),
        (0, 24 * 3600, MAX_LEASE_SECONDS - 60),
        (3600, 24 * 3600, MAX_LEASE_SECONDS - 3660),  # SQS counts its 12 h from the receive
        (MAX_LEASE_SECONDS + 1, 7, 0),
    ],
)
@in_virtual_time
async def test_retry_is_hidden_for_its_delay_within_twelve_hours_of_the_receive(
    make_settings: MakeSettings, held_seconds: float, delay_seconds: float, hidden_seconds: float
) -> None:
    sqs = RecordingSqs()
    message = received(leased_at=virtual_time().monotonic() - held_seconds)
    await queue_of(sqs, make_settings(), virtual_time()).retry(message, delay_seconds)
    assert sqs.calls[0]["VisibilityTimeout"] == hidden_seconds
