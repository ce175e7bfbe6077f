"""The world around a real daemon process: an AWS, a webhook receiver, and ways to look at what came of a job."""

import base64
import json
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.embedded.aws import EmbeddedAws
from daemon.embedded.process import DaemonProcess
from daemon.embedded.receiver import SeenEvent, WebhookReceiver
from daemon.embedded.recordings import sample_call
from tests.waiting import PATIENCE_SECONDS as PATIENCE_SECONDS

SECRET = "whsec_" + base64.b64encode(b"a secret for tests alone, 32 byte").decode()


@dataclass
class World:
    """Everything outside the daemon. `settings` are further variables for it."""

    aws: EmbeddedAws
    receiver: WebhookReceiver
    folder: Path
    settings: dict[str, str]
    seen: list[SeenEvent] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def daemon(self, name: str = "daemon", **settings: str) -> DaemonProcess:
        environment = {
            **self.aws.environment,
            "WEBHOOK_URL": self.receiver.url,
            "WEBHOOK_SECRET": SECRET,
            "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP": "true",
            "TRANSCRIPTD_SCRATCH_DIR": str(self.scratch),
            "TRANSCRIPTD_MIN_FREE_BYTES": "1000000",
            "TRANSCRIPTD_RECEIVE_WAIT_SECONDS": "1",
            "TRANSCRIPTD_DEVICES": "cpu",
            "TRANSCRIPTD_MODEL": "base",
            "TRANSCRIPTD_MODELS": "base,large-v3-turbo",
            "TRANSCRIPTD_PIPELINE": "tests.pipelines.scripted:ScriptedPipeline",
            **self.settings,
            **{f"TRANSCRIPTD_{setting.upper()}": value for setting, value in settings.items()},
        }
        return DaemonProcess(environment, self.folder / f"{name}.log")

    # --- what an API does

    def upload(self, key: str, body: bytes | Path) -> None:
        self.aws.s3.put_object(
            Bucket=self.aws.input_bucket, Key=key, Body=body.read_bytes() if isinstance(body, Path) else body
        )

    def publish(self, job_id: str, key: str, **fields: Any) -> None:
        self.send(json.dumps({"job_id": job_id, "input": {"bucket": self.aws.input_bucket, "key": key}, **fields}))

    def send(self, body: str, **attributes: str) -> None:
        typed: Any = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        self.aws.sqs.send_message(QueueUrl=self.aws.queue_url, MessageBody=body, MessageAttributes=typed)

    # --- what it sees afterwards

    def events(self, job_id: str | None) -> list[SeenEvent]:
        return [seen for seen in list(self.seen) if seen.event["data"]["job_id"] == job_id]

    def wait_for(
        self, job_id: str | None, event_type: str, timeout_seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """The first event of this type about the job."""
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            found[:] = [seen.event for seen in self.events(job_id) if seen.event["type"] == event_type]
            return bool(found)

        with self.arrived:
            if not self.arrived.wait_for(arrived, timeout_seconds):
                raise AssertionError(
                    f"no {event_type} for {job_id}; seen: {[s.event['type'] for s in self.events(job_id)]}"
                )
        return found[0]

    def outputs(self, job_id: str) -> dict[str, bytes]:
        """Name → content of everything under the job's prefix."""
        prefix = f"transcripts/{job_id}/"
        listed = self.aws.s3.list_objects_v2(Bucket=self.aws.output_bucket, Prefix=prefix).get("Contents", [])
        read = self.aws.s3.get_object
        return {
            item["Key"].removeprefix(prefix): read(Bucket=self.aws.output_bucket, Key=item["Key"])["Body"].read()
            for item in listed
        }

    def dead_letters(self) -> list[dict[str, Any]]:
        """All messages of the dead-letter queue, taken off it: body, and Failure as a dict."""
        found: list[dict[str, Any]] = []
        while messages := self.aws.sqs.receive_message(
            QueueUrl=self.aws.dlq_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=0
        ).get("Messages"):
            for message in messages:
                attributes = message["MessageAttributes"]
                failure = json.loads(attributes["Failure"]["StringValue"])
                found.append({"body": message["Body"], "attributes": attributes, "failure": failure})
                self.aws.sqs.delete_message(QueueUrl=self.aws.dlq_url, ReceiptHandle=message["ReceiptHandle"])
        return found

    def queue_depth(self) -> tuple[int, int]:
        """Messages visible, and in flight."""
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes: Any = self.aws.sqs.get_queue_attributes(QueueUrl=self.aws.queue_url, AttributeNames=names)[
            "Attributes"
        ]
        return int(attributes[names[0]]), int(attributes[names[1]])

    def wait_until_empty(self, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self.queue_depth() != (0, 0):
            if time.monotonic() > deadline:
                raise AssertionError(f"the queue still has {self.queue_depth()}")
            time.sleep(0.1)

    def wait_until_kept(self, job_id: str) -> None:
        """Until there is a checkpoint of the job's speech."""
        self.wait_until(
            lambda: any(name.endswith("/asr-00000.json") for name in self.outputs(job_id)), f"{job_id} is kept"
        )

    def wait_until_counted(self, daemon: DaemonProcess, deliveries: int) -> None:
        """Until the daemon has ended so many, of all that it received: its metrics follow a moment after the queue is empty."""
        self.wait_until(lambda: len(list(daemon.log_entries("job finished"))) >= deliveries, f"{deliveries} counted")

    def wait_until(self, true: Callable[[], bool], what: str, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"not {what} after {timeout_seconds:g} s")
            time.sleep(0.1)

    def scratch_files(self) -> list[Path]:
        """What jobs have left on disk; the daemons' own lock files do not count."""
        return [path for path in self.scratch.rglob("*") if path.is_file() and path.name != "lock"]


def repeated_call(target: Path, times: int) -> Path:
    """The sample call so many times over, 30 s each."""
    with wave.open(str(sample_call())) as call, wave.open(str(target), "wb") as repeated:
        repeated.setparams(call.getparams())
        repeated.writeframes(call.readframes(call.getnframes()) * times)
    return target


@contextmanager
def open_world(*, visibility_timeout_seconds: int = 120, **settings: str) -> Iterator[World]:
    """An empty world. The lease is said once, for the queue and for the daemons; `settings` are further ones for these."""
    with (
        tempfile.TemporaryDirectory(prefix="transcriptd-test-") as folder,
        EmbeddedAws(visibility_timeout_seconds) as aws,
    ):
        holder: list[World] = []

        def on_event(seen: SeenEvent) -> None:
            with holder[0].arrived:
                holder[0].seen.append(seen)
                holder[0].arrived.notify_all()

        with WebhookReceiver(SECRET, on_event) as receiver:
            settings["visibility_timeout_seconds"] = str(visibility_timeout_seconds)
            named = {f"TRANSCRIPTD_{name.upper()}": value for name, value in settings.items()}
            world = World(aws, receiver, Path(folder), named)
            holder.append(world)
            yield world
