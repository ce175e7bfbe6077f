"""EC2 instance metadata and the Auto Scaling service on loopback, with the shapes of the real documents and injectable
faults."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs

from daemon.demo.loopback import LoopbackServer, QuietHandler

INSTANCE_ID = "i-0123456789abcdef0"
NAMESPACE = "http://autoscaling.amazonaws.com/doc/2011-01-01/"


@dataclass
class FakeEc2:
    """Fake EC2 endpoint: `metadata` maps paths to responses, `calls` records the requests to the Auto Scaling group.

    Use as `with FakeEc2() as ec2:`.
    """

    metadata: dict[str, str] = field(default_factory=lambda: {"instance-id": INSTANCE_ID})
    members: list[str] | None = None  # instances in DescribeAutoScalingGroups; None: the group does not exist
    refused: set[str] = field(default_factory=set)  # actions answered with a ValidationError
    failing: int = 0  # number of calls that fail before one succeeds
    metadata_down: bool = False
    token_ttl_requests: int = 0
    without_token: int = 0
    calls: list[dict[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    on_call: Callable[[dict[str, str]], None] = lambda _: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        outer = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                if outer.metadata_down or self.path != "/latest/api/token":
                    return self._answer(503, "")
                outer.token_ttl_requests += 1
                token = f"token-{outer.token_ttl_requests}"
                outer.tokens.add(token)
                return self._answer(200, token)

            def do_GET(self) -> None:
                if outer.metadata_down:
                    return self._answer(503, "")
                if self.headers.get("X-aws-ec2-metadata-token") not in outer.tokens:
                    outer.without_token += 1
                    return self._answer(401, "")
                found = outer.metadata.get(self.path.removeprefix("/latest/meta-data/"))
                return self._answer(404, "") if found is None else self._answer(200, found)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                call = {name: values[0] for name, values in parse_qs(body).items()}
                with outer._lock:
                    outer.calls.append(call)
                    fails = outer.failing > 0
                    outer.failing -= fails
                action = call["Action"]
                if fails:
                    return self._answer(500, _error("InternalFailure", "switched on"))
                if action in outer.refused:
                    return self._answer(400, _error("ValidationError", "No active Lifecycle Action found"))
                outer.on_call(call)
                result = _described(outer.members) if action == "DescribeAutoScalingGroups" else ""
                return self._answer(
                    200,
                    f'<{action}Response xmlns="{NAMESPACE}"><{action}Result>{result}</{action}Result>'
                    f"<ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>",
                )

            def _answer(self, status: int, body: str) -> None:
                data = body.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = LoopbackServer(Handler, "fake ec2").__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        return self._server.base_url

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a daemon on this instance, in the group `fleet`."""
        return {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url,
            "AWS_ENDPOINT_URL_AUTO_SCALING": self.url,
            "TRANSCRIPTD_HOST": "ec2",
            "TRANSCRIPTD_AUTOSCALING_GROUP": "fleet",
            "TRANSCRIPTD_LAUNCH_HOOK": "launching",
            "TRANSCRIPTD_TERMINATION_HOOK": "terminating",
            "TRANSCRIPTD_INTERRUPTION_POLL_SECONDS": "0.2",
            "TRANSCRIPTD_HOOK_HEARTBEAT_SECONDS": "0.5",
        }

    def attach_role(self, name: str = "transcriptd-instance") -> None:
        """Serve the credentials of an instance profile, which AWS SDKs use when the environment has none."""
        self.metadata["iam/security-credentials/"] = name
        self.metadata[f"iam/security-credentials/{name}"] = json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "AccessKeyId": "ASIAEXAMPLE",
                "SecretAccessKey": "secret",
                "Token": "token",
                "LastUpdated": _timestamp(time.time()),
                "Expiration": _timestamp(time.time() + 6 * 3600),
            }
        )

    # --- instance events

    def interrupt(self, in_seconds: float) -> None:
        ends_at = _timestamp(time.time() + in_seconds)
        self.metadata["spot/instance-action"] = json.dumps({"action": "terminate", "time": ends_at})

    def recommend_rebalance(self) -> None:
        self.metadata["events/recommendations/rebalance"] = json.dumps({"noticeTime": "2026-11-22T10:00:00Z"})

    def terminate(self) -> None:
        self.metadata["autoscaling/target-lifecycle-state"] = "Terminated"

    # --- recorded calls

    def call_names(self) -> list[str]:
        """Return the recorded calls in order, abbreviated: `complete launching CONTINUE`."""
        return [_in_short(call) for call in list(self.calls)]


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _described(members: list[str] | None) -> str:
    if members is None:
        return "<AutoScalingGroups/>"
    instances = "".join(f"<member><InstanceId>{member}</InstanceId></member>" for member in members)
    return f"<AutoScalingGroups><member><Instances>{instances}</Instances></member></AutoScalingGroups>"


def _in_short(call: dict[str, str]) -> str:
    match call["Action"]:
        case "CompleteLifecycleAction":
            return f"complete {call['LifecycleHookName']} {call['LifecycleActionResult']}"
        case "RecordLifecycleActionHeartbeat":
            return f"heartbeat {call['LifecycleHookName']}"
        case "TerminateInstanceInAutoScalingGroup":
            return "terminate" + (" and shrink" if call["ShouldDecrementDesiredCapacity"] == "true" else "")
        case "SetInstanceHealth":
            return call["HealthStatus"]
        case other:
            return other


def _error(code: str, message: str) -> str:
    return (
        f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
        f"<Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    )
