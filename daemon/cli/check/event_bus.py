"""The event bus: the permission to put events, and whether the bus exists. No event is put.

The permission is tested with a detail that is not JSON, which EventBridge refuses after it has checked the permission.
"""

from collections.abc import AsyncGenerator
from typing import Any

from botocore.exceptions import ClientError

from daemon.cli.check.aws import CONFIG, Denied, calling
from daemon.cli.check.registry import CheckResult, check, failed, passed, skipped
from daemon.config import Settings
from daemon.webhooks.event_bus import MALFORMED, SOURCE, EventsClient, open_events_client

NO_JSON = "{"
PUT, DESCRIBE = "events:PutEvents", "events:DescribeEventBus"


@check(
    "event-bus",
    "the role can put events on the event bus, and the bus exists. No event is put",
    actions="`events:PutEvents`; `events:DescribeEventBus`, without which it is not known whether the bus exists",
)
async def event_bus(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    bus = settings.event_bus
    if bus is None:
        yield skipped("TRANSCRIPTD_EVENT_BUS is not set", "Set it to put the events of every job on an event bus.")
        return
    with calling("events", "EventBridge"):
        async with open_events_client(CONFIG, settings) as client:
            yield await _try_put(client, bus)
            yield await _look_if_allowed(client, bus)


async def _try_put(client: EventsClient, bus: str) -> CheckResult:
    """Raises CheckAborted if the call is refused."""
    entry = {"EventBusName": bus, "Source": SOURCE, "DetailType": "job.test", "Detail": NO_JSON}
    with calling(PUT, bus):
        answer = await client.put_events(Entries=[entry])
    refused: dict[str, Any] = next(iter(answer.get("Entries") or ()), {})
    code = refused.get("ErrorCode")
    if code == MALFORMED:
        return passed(f"{PUT} on {bus} is allowed")
    return failed(
        f"{bus}: {PUT} failed ({code}: {refused.get('ErrorMessage', '')})",
        f"Grant the role {PUT} on the bus; for a bus of another account, also in the policy of the bus.",
    )


async def _look_if_allowed(client: EventsClient, bus: str) -> CheckResult:
    """Look for the bus, which the daemon itself has no permission for. Raises CheckAborted if it is missing."""
    try:
        with calling(DESCRIBE, bus):
            try:
                await client.describe_event_bus(Name=bus)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "ResourceNotFoundException":
                    raise
                return failed(
                    f"the event bus {bus} does not exist: EventBridge accepts its events and drops them",
                    "Create it, or correct TRANSCRIPTD_EVENT_BUS, the region or the account.",
                )
    except Denied:
        found = (
            f"whether {bus} exists was not checked: {DESCRIBE} is denied; EventBridge drops the events of a missing bus"
        )
        return skipped(found, f"Run the check with credentials that allow {DESCRIBE} on it.")
    return passed(f"{bus} exists")
