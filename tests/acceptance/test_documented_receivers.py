"""The receivers in docs/webhooks.md, run as they are: genuine events are accepted, all other requests are answered with 401."""

import base64
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from bench.waiting import wait_for
from bench.world import SECRET
from daemon.webhooks.events import WebhookEvent
from tests.support.programs import require_program

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
BODY = WebhookEvent(job_id="job-1", status="completed", attempt=1).body().encode()
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@dataclass
class Receiver:
    port: int
    process: "subprocess.Popen[str]"

    def post(self, headers: dict[str, str], body: bytes = BODY) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/hooks/transcripts", body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def listens(self) -> bool:
        assert self.process.poll() is None, "the receiver ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


@pytest.fixture(scope="module", params=["python", "js"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    (code,) = re.findall(rf"```{request.param}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    port = free_port()
    path = tmp_path_factory.mktemp("receiver") / ("receiver.py" if request.param == "python" else "receiver.mjs")
    path.write_text(code.replace("8000", str(port)))
    program = sys.executable if request.param == "python" else require_program("node")
    with subprocess.Popen(
        [program, str(path)], env={**os.environ, "WEBHOOK_SECRET": SECRET}, stdout=subprocess.PIPE, text=True
    ) as process:
        receiver = Receiver(port, process)
        wait_for(receiver.listens, "the receiver listens")
        yield receiver
        process.kill()


def signed(at: float | None = None, secret: str = SECRET, body: bytes = BODY) -> dict[str, str]:
    at = time.time() if at is None else at
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), body.decode())
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(at)), "webhook-signature": signature}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in signed().items() if key != name}


def test_genuine_events_are_accepted(receiver: Receiver) -> None:
    assert receiver.post(signed()) == 204
    rotated = signed()["webhook-signature"]
    assert (
        receiver.post({**signed(), "webhook-signature": f"{signed(secret=OTHER)['webhook-signature']} {rotated}"})
        == 204
    )
    assert receiver.process.stdout is not None
    assert receiver.process.stdout.readline() == "job.completed job-1\n"


def test_other_requests_are_answered_with_401(receiver: Receiver) -> None:
    genuine = signed()["webhook-signature"]
    refused: dict[str, tuple[dict[str, str], bytes]] = {
        "no headers": ({}, BODY),
        "another secret": (signed(secret=OTHER), BODY),
        "another body": (signed(), BODY.replace(b"job-1", b"job-2")),
        "another ID": ({**signed(), "webhook-id": "msg_2"}, BODY),
        "old": (signed(time.time() - 3600), BODY),
        "from the future": (signed(time.time() + 3600), BODY),
        "newer timestamp than signed": (
            {**signed(time.time() - 3600), "webhook-timestamp": str(int(time.time()))},
            BODY,
        ),
        "no body": (signed(), b""),
        "not JSON": ({}, b"\xff{"),
        **{f"without {name}": (without(name), BODY) for name in signed()},
        **{
            f"timestamp {value!r}": ({**signed(), "webhook-timestamp": value}, BODY) for value in ("", "x", "1e9", "-1")
        },
        **{
            f"signature {value!r}": ({**signed(), "webhook-signature": value}, BODY)
            for value in ("", "v1", "v1,", ",", "v1,x", "v1,%", genuine[3:], "v2" + genuine[2:], "v1a," + genuine[3:])
        },
    }
    answers = {name: receiver.post(headers, body) for name, (headers, body) in refused.items()}
    assert answers == dict.fromkeys(refused, 401)
    assert receiver.post({"Content-Length": "x"}, b"") in (400, 401), "Node's own parser answers 400"
    assert receiver.post(signed()) == 204, "the receiver still works"
