"""A proxy in front of AWS that denies, answers or holds calls and shifts the server's date on demand; it forwards everything
else."""

import fnmatch
import http.client
import json
import re
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from types import TracebackType
from typing import Self

from daemon.demo.loopback import LoopbackServer, QuietHandler
from tests.chaos.proxy import HOP_BY_HOP, call_name

DENIED = "User: arn:aws:iam::123456789012:user/tests is not authorized to perform: "


class Gate:
    """`with Gate(aws.endpoint_url) as gate:`. Calls are named as in the chaos proxy: `sqs:DeleteMessage`,
    `s3:PUT:key`."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream.removeprefix("http://")
        self.denied: dict[str, str] = {}  # call pattern → action named in the AccessDenied error
        self.refused: dict[str, tuple[int, str]] = {}  # pattern of S3 calls → status and code of the error
        self.demanded: dict[str, str] = {}  # headers without which a PUT is denied, as a bucket's policy does
        self.sizes: dict[str, int] = {}  # pattern of S3 calls → size in bytes that the answers to ranged reads state
        self.payers_only: set[str] = (
            set()
        )  # buckets that deny calls without consent to pay, as requester-pays buckets do
        self.answers: dict[str, tuple[int, str, bytes]] = {}  # call pattern → status, Content-Type and body
        # Access key → the code that its calls get, and what happens before the first of them is refused.
        self.refused_keys: dict[str, tuple[str, Callable[[], None]]] = {}
        self.refused_calls: dict[str, list[str]] = {}  # by access key
        self.held: set[str] = set()  # patterns of calls that stay unanswered until the gate closes
        self.date_shift_seconds = 0.0
        self.calls: list[str] = []
        self.arrived = threading.Condition()
        self._end = threading.Event()

    def __enter__(self) -> Self:
        outer = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"  # clients wait for 100 Continue

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                call = call_name(self.command, self.path, self.headers.get("X-Amz-Target"))
                with outer.arrived:
                    outer.calls.append(call)
                    outer.arrived.notify_all()
                if any(fnmatch.fnmatch(call, pattern) for pattern in outer.held):
                    outer._end.wait()
                    self.close_connection = True
                    return
                if self._signed_with_refused_key(call):
                    return
                answer = next((each for name, each in outer.answers.items() if fnmatch.fnmatch(call, name)), None)
                if answer is not None:
                    self._answer(answer[0], {"Content-Type": answer[1]}, answer[2])
                    return
                action = next((each for pattern, each in outer.denied.items() if fnmatch.fnmatch(call, pattern)), None)
                if self.command == "PUT" and any(
                    self.headers.get(name) != value for name, value in outer.demanded.items()
                ):
                    action = "s3:PutObject"
                bucket = self.path.partition("?")[0].split("/")[1]
                if bucket in outer.payers_only and self.headers.get("x-amz-request-payer") != "requester":
                    action = "s3:GetObject"
                refusal = next(
                    (each for pattern, each in outer.refused.items() if fnmatch.fnmatch(call, pattern)), None
                )
                if action is not None:
                    self._deny(call, action)
                elif refusal is not None:
                    status, code = refusal
                    refused_xml = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>"
                    self._answer(status, {"Content-Type": "application/xml"}, refused_xml.encode())
                else:
                    self._forward(call, body)

            do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815  # what http.server calls

            def _signed_with_refused_key(self, call: str) -> bool:
                found = re.search(r"Credential=(\w+)/", self.headers.get("Authorization", ""))
                if found is None or found[1] not in outer.refused_keys:
                    return False
                code, before_first = outer.refused_keys[found[1]]
                with outer.arrived:
                    refused_calls = outer.refused_calls.setdefault(found[1], [])
                    refused_calls.append(call)
                    if len(refused_calls) == 1:
                        before_first()
                if call.startswith("sqs:"):
                    refused = {"__type": f"com.amazonaws.sqs#{code}", "message": "refused by the test"}
                    self._answer(400, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(refused).encode())
                else:
                    refused_xml = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>"
                    self._answer(403, {"Content-Type": "application/xml"}, refused_xml.encode())
                return True

            def _deny(self, call: str, action: str) -> None:
                if not call.startswith("s3:"):
                    answer = {"__type": "com.amazonaws#AccessDeniedException", "message": DENIED + action}
                    self._answer(400, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(answer).encode())
                else:
                    told_xml = f"<Error><Code>AccessDenied</Code><Message>{DENIED}{action}</Message></Error>"
                    self._answer(403, {"Content-Type": "application/xml"}, told_xml.encode())

            def _forward(self, call: str, body: bytes) -> None:
                connection = http.client.HTTPConnection(outer._upstream, timeout=60)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                    connection.request(self.command, self.path, body, headers)
                    response = connection.getresponse()
                    kept = {
                        name: value
                        for name, value in response.getheaders()
                        if name.lower() not in (*HOP_BY_HOP, "date", "server")
                    }
                    size = next((each for name, each in outer.sizes.items() if fnmatch.fnmatch(call, name)), None)
                    if size is not None:
                        kept = {
                            name: f"{value.partition('/')[0]}/{size}" if name.lower() == "content-range" else value
                            for name, value in kept.items()
                        }
                    self._answer(response.status, kept, response.read())
                finally:
                    connection.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + outer.date_shift_seconds, usegmt=True))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self._server = LoopbackServer(Handler, "gate").__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._server.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        return self._server.base_url

    def wait_for(self, pattern: str, timeout_seconds: float) -> bool:
        """Wait for a matching call and return whether it arrived in time."""
        with self.arrived:
            return self.arrived.wait_for(
                lambda: any(fnmatch.fnmatch(call, pattern) for call in self.calls), timeout_seconds
            )
