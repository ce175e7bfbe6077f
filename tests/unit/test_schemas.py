"""What the daemon writes for others fits the published schemas. tests/unit/test_docs.py compares those with the code."""

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from daemon.errors import JobCancelled, NoAudio
from daemon.jobs.delivery import Accepted, Claim, LiveDelivery, Published
from daemon.jobs.delivery_log import DeliveryLog
from daemon.jobs.lease import Lease
from daemon.jobs.notifications import cancelled_event, completed_event, failed_event, progress_event, started_event
from daemon.jobs.progress import ProgressView
from daemon.telemetry.metrics import EVENTS, Metrics
from daemon.telemetry.spans import Span
from daemon.webhooks.events import EventStatus, WebhookEvent
from tests.support.aws.fakes import FakeQueue, received
from tests.support.builders import a_job, a_manifest, a_message, some_settings

DOCS = Path(__file__).parents[2] / "docs"


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def events() -> dict[str, WebhookEvent]:
    """Return an event of each type, and one of a refused message."""
    message = received(a_message())
    claim = Claim(message, Lease(FakeQueue(), message, some_settings(), Metrics()), Span())
    delivery, job = LiveDelivery(claim), a_job(metadata={"a": [1, None]})
    refused = failed_event(NoAudio("x"), delivery, some_settings())
    accepted = delivery.reached = Accepted(claim, job, DeliveryLog())
    delivery.timings_seconds = {"download": 0.5}
    return {
        "started": started_event(accepted, delivery),
        "progress": progress_event(accepted, delivery, ProgressView("align", None, 0.5, None)),
        "completed": completed_event(Published(job, a_manifest(job), ours=True), delivery),
        "failed": failed_event(NoAudio("there is no sound", detail="Traceback"), delivery, some_settings()),
        "cancelled": cancelled_event(JobCancelled("on request"), delivery),
        "test": WebhookEvent(job_id=None, status="test", attempt=0),
        "refused": refused,
    }


@pytest.mark.parametrize("name", [*get_args(EventStatus), "refused"])
def test_events_fit_their_schema(name: str) -> None:
    payload = json.loads(events()[name].body())
    jsonschema.validate(payload, schema("webhook"))
    for key in payload["data"]:
        less = {other: value for other, value in payload["data"].items() if other != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**payload, "data": less}, schema("webhook"))
    jsonschema.validate({**payload, "data": {**payload["data"], "added_later": 1}}, schema("webhook"))


@pytest.mark.parametrize(("name", "key"), [("progress", "progress"), ("failed", "error"), ("cancelled", "error")])
def test_schema_requires_what_a_type_of_event_is_about(name: str, key: str) -> None:
    payload = json.loads(events()[name].body())
    payload["data"][key] = None
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(payload, schema("webhook"))


def test_every_event_of_the_daemon_has_a_metric() -> None:
    assert (*EVENTS, "job.test") == tuple(f"job.{status}" for status in get_args(EventStatus))


def test_manifest_fits_its_schema() -> None:
    manifest = a_manifest(a_job()).model_dump(mode="json")
    jsonschema.validate(manifest, schema("manifest"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**manifest, "outputs": None}, schema("manifest"))
