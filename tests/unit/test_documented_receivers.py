"""The receivers in docs/webhooks.md, run as they are: they accept signed events and answer anything else with 401."""

import base64
import http.client
import json
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

from bench.waiting import PATIENCE_SECONDS
from tests.support.programs import require_program

PAGE = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
SECRET, OTHER = ("whsec_" + base64.b64encode(word * 8).decode() for word in (b"mine", b"past"))
BODY = json.dumps({"type": "job.completed", "data": {"job_id": "job-1"}})


@dataclass(frozen=True)
class Receiver:
    port: int

    def status(self, headers: dict[str, str], body: str = BODY) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("POST", "/hooks/transcripts", body.encode(), headers)
            return connection.getresponse().status
        finally:
            connection.close()


def signed(secret: str = SECRET, *, age_seconds: float = 0.0, body: str = BODY) -> dict[str, str]:
    at = datetime.fromtimestamp(int(time.time() - age_seconds), UTC)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp()))}
    return headers | {"webhook-signature": Webhook(secret).sign("msg_1", at, body)}


@pytest.fixture(scope="module", params=["python", "js"])
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    language = request.param
    program = sys.executable if language == "python" else require_program("node")
    (example,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    file = tmp_path_factory.mktemp("receiver") / ("receiver.py" if language == "python" else "receiver.mjs")
    file.write_text(example.replace("whsec_…", SECRET).replace("8000", str(port)))
    with subprocess.Popen([program, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield Receiver(port)
        finally:
            process.kill()


def test_signed_events_are_accepted(receiver: Receiver) -> None:
    assert receiver.status(signed()) == 204
    assert receiver.status(signed()) == 204  # the same event again
    rotated = signed() | {"webhook-signature": f"{signed(OTHER)['webhook-signature']} {signed()['webhook-signature']}"}
    assert receiver.status(rotated) == 204


UNSIGNED = {
    "another secret": signed(OTHER),
    "another body": signed(body=BODY + " "),
    "an hour old": signed(age_seconds=3600),
    "from the future": signed(age_seconds=-3600),
    "another id": signed() | {"webhook-id": "msg_2"},
    "nothing": {},
    "no id": {name: value for name, value in signed().items() if name != "webhook-id"},
    "no signature": {name: value for name, value in signed().items() if name != "webhook-signature"},
    "no timestamp": {name: value for name, value in signed().items() if name != "webhook-timestamp"},
    "a timestamp in words": signed() | {"webhook-timestamp": "today"},
    "an infinite timestamp": signed() | {"webhook-timestamp": "1e999"},
    "no version": signed() | {"webhook-signature": signed()["webhook-signature"].removeprefix("v1,")},
    "another version": signed() | {"webhook-signature": "v2" + signed()["webhook-signature"][2:]},
    "not base64": signed() | {"webhook-signature": "v1,!"},
    "a short signature": signed() | {"webhook-signature": "v1,aGVsbG8="},
    "commas": signed() | {"webhook-signature": ",,, v1,,"},
}


@pytest.mark.parametrize("headers", UNSIGNED.values(), ids=UNSIGNED.keys())
def test_everything_else_is_refused(receiver: Receiver, headers: dict[str, str]) -> None:
    assert receiver.status(headers) == 401


@pytest.mark.parametrize("length", ["", "Content-Length: 0\r\n", "Content-Length: many\r\n"])
def test_request_without_a_body_is_refused(receiver: Receiver, length: str) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{length}\r\n".encode())
        answer = connection.recv(100)
    assert re.match(rb"HTTP/1\.[01] 40[01] ", answer)  # Node.js itself refuses a malformed length with 400
    assert receiver.status(signed()) == 204  # and goes on
