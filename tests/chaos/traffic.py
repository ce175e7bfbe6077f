"""What the proxy saw pass between the daemons and AWS: the audit's record, independent of the daemons."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from daemon.jobs.result_store import DELIVERY_LOG_NAME
from tests.chaos.credentials import KeyUse


@dataclass(frozen=True, slots=True)
class Write:
    """An object that AWS stored."""

    at: float  # monotonic
    caller: str
    key: str  # including the bucket


@dataclass(frozen=True, slots=True)
class Receipt:
    """A message that reached a daemon."""

    at: float  # monotonic
    caller: str
    handle: str


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A call that the proxy did not answer as AWS would."""

    at: float  # monotonic
    caller: str
    call: str


@dataclass
class Traffic:
    """Filled in the proxy's thread; read after it, or through a copy."""

    writes: list[Write] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)  # of stored objects, by ETag
    delivery_logs: dict[str, bytes] = field(default_factory=dict)  # the last one of each job, by its key
    receipts: dict[str, Receipt] = field(default_factory=dict)  # the last one of each job
    gone: set[str] = field(default_factory=set)  # receipt handles that SQS refused, and the daemon knows it
    disturbances: list[Disturbance] = field(default_factory=list)
    key_uses: dict[str, KeyUse] = field(default_factory=dict)  # the last one of each caller

    def note_write(self, caller: str, key: str, body: bytes, etag: str) -> None:
        self.writes.append(Write(time.monotonic(), caller, key))
        if hashlib.md5(body, usedforsecurity=False).hexdigest() == etag:
            self.bodies[etag] = body
        if key.endswith("/" + DELIVERY_LOG_NAME):
            self.delivery_logs[key] = body

    def note_answer(self, caller: str, operation: str, request: dict[str, Any], status: int, body: bytes) -> None:
        """Note an answer of SQS that reached a daemon unchanged."""
        if operation == "ReceiveMessage" and status == HTTPStatus.OK:
            for message in json.loads(body or b"{}").get("Messages", []):
                if job_id := _job_id(message["Body"]):
                    self.receipts[job_id] = Receipt(time.monotonic(), caller, message["ReceiptHandle"])
        elif status == HTTPStatus.BAD_REQUEST and b"ReceiptHandleIsInvalid" in body:
            self.gone.add(str(request.get("ReceiptHandle")))


def _job_id(body: str) -> str | None:
    try:
        return str(json.loads(body)["job_id"])
    except (ValueError, KeyError, TypeError):
        return None  # no job of a run
