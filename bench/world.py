"""The environment of a real daemon process, for measurements and tests: AWS, a webhook receiver, and the results of
jobs."""

import base64
import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.waiting import PATIENCE_SECONDS, wait_for
from daemon.demo.aws import EmbeddedAws
from daemon.demo.process import DaemonProcess
from daemon.demo.receiver import SeenEvent, WebhookReceiver

# moto keeps its state in module globals: two worlds would share their queues, and closing one would empty the other.
ONE_WORLD = threading.Lock()

SECRET = "whsec_" + base64.b64encode(b"a secret for tests alone, 32 byte").decode()


@dataclass
class World:
    """Everything outside the daemon. `settings` are additional variables for it."""

    aws: EmbeddedAws
    receiver: WebhookReceiver
    folder: Path
    settings: dict[str, str]
    seen: list[SeenEvent] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def daemon(
        self,
        name: str = "daemon",
        *,
        module: str = "daemon",
        arguments: Sequence[str] = ("run",),
        command: Sequence[str] | None = None,
        **settings: str,
    ) -> DaemonProcess:
        """`command` replaces the one made of `module` and `arguments`."""
        environment = {
            **self.aws.environment,
            "WEBHOOK_URL": self.receiver.url,
            "WEBHOOK_SECRET": SECRET,
            "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP": "true",
            "TRANSCRIPTD_ALLOW_WEAK_SANDBOX": "true",  # the recordings are our own, and any kernel will do
            "TRANSCRIPTD_SCRATCH_DIR": str(self.scratch),
            "TRANSCRIPTD_MIN_FREE_BYTES": "1000000",
            "TRANSCRIPTD_RECEIVE_WAIT_TIME_SECONDS": "1",
            "TRANSCRIPTD_DEVICES": "cpu",
            "TRANSCRIPTD_MODEL": "base",
            "TRANSCRIPTD_MODELS": "base,large-v3-turbo",
            "TRANSCRIPTD_PIPELINE": "bench.scripted_pipeline:ScriptedPipeline",
            **self.settings,
            **{f"TRANSCRIPTD_{setting.upper()}": value for setting, value in settings.items()},
        }
        usual = (sys.executable, "-m", module, *arguments)
        return DaemonProcess(environment, self.folder / f"{name}.log", command or usual)

    # --- actions of an API

    def upload(self, key: str, body: bytes | Path) -> None:
        self.aws.s3.put_object(
            Bucket=self.aws.input_bucket, Key=key, Body=body.read_bytes() if isinstance(body, Path) else body
        )

    def publish(self, job_id: str, key: str, *, tenant: str | None = None, **fields: Any) -> None:
        body = {"job_id": job_id, "input": {"bucket": self.aws.input_bucket, "key": key}, **fields}
        self.send(json.dumps(body), tenant=tenant)

    def add_queues(self, *names: str) -> dict[str, tuple[str, str]]:
        """Create job queues for the daemons to receive from, in this order. Return each one's URL and dead-letter queue."""
        queues = {name: self.aws.create_queue(name) for name in names}
        self.settings |= {
            setting: " ".join(f"{name}={urls[index]}" for name, urls in queues.items())
            for index, setting in enumerate(("TRANSCRIPTD_QUEUE_URL", "TRANSCRIPTD_DLQ_URL"))
        }
        return queues

    def send(self, body: str, *, tenant: str | None = None, **attributes: str) -> None:
        typed: Any = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        group: Any = {"MessageGroupId": tenant} if tenant else {}
        self.aws.sqs.send_message(QueueUrl=self.aws.queue_url, MessageBody=body, MessageAttributes=typed, **group)

    # --- results ------------------------------------------------------------------------------------------------------

    def events(self, job_id: str | None) -> list[SeenEvent]:
        return [seen for seen in list(self.seen) if seen.event["data"]["job_id"] == job_id]

    def wait_for(
        self, job_id: str | None, event_type: str, timeout_seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Wait for the first event of this type about the job and return it."""
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
        """Return the contents of all objects under the job's prefix, by name."""
        prefix, s3 = f"transcripts/{job_id}/", self.aws.s3
        listed = s3.list_objects_v2(Bucket=self.aws.output_bucket, Prefix=prefix).get("Contents", [])
        found = {}
        for item in listed:
            with suppress(
                s3.exceptions.NoSuchKey
            ):  # removed since it was listed, like the checkpoints of a finished job
                body = s3.get_object(Bucket=self.aws.output_bucket, Key=item["Key"])["Body"]
                found[item["Key"].removeprefix(prefix)] = body.read()
        return found

    def dead_letters(self) -> list[dict[str, Any]]:
        """Receive and delete all messages of the dead-letter queue; return each body with its Failure as a dict."""
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
        """Return the numbers of visible and in-flight messages."""
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes: Any = self.aws.sqs.get_queue_attributes(QueueUrl=self.aws.queue_url, AttributeNames=names)[
            "Attributes"
        ]
        return int(attributes[names[0]]), int(attributes[names[1]])

    def wait_until_empty(self, timeout_seconds: float = PATIENCE_SECONDS) -> None:
        wait_for(lambda: self.queue_depth() == (0, 0), "the queue is empty", timeout_seconds)

    def wait_until_kept(self, job_id: str) -> None:
        """Wait until a checkpoint of the job's recognition is stored."""
        wait_for(
            lambda: any(name.endswith("/asr-00000.json") for name in self.outputs(job_id)),
            f"{job_id} has a stored checkpoint",
        )

    def wait_until_counted(self, daemon: DaemonProcess, deliveries: int) -> None:
        """Wait until the daemon has finished this many deliveries, because its metrics follow shortly after the queue
        is empty."""
        wait_for(lambda: len(list(daemon.log_entries("job finished"))) >= deliveries, f"{deliveries} counted")

    def scratch_files(self) -> list[Path]:
        """Return the files that jobs left on disk, without the daemons' own lock files."""
        return [path for path in self.scratch.rglob("*") if path.is_file() and path.name != "lock"]


@contextmanager
def _alone() -> Iterator[None]:
    if not ONE_WORLD.acquire(blocking=False):
        raise RuntimeError("another world is open in this process and would share its queues and buckets")
    try:
        yield
    finally:
        ONE_WORLD.release()


@contextmanager
def open_world(
    embedded: type[EmbeddedAws] = EmbeddedAws, /, *, visibility_timeout_seconds: int = 120, **settings: str
) -> Iterator[World]:
    """Open an empty world. The visibility timeout applies to the queue and to the daemons; `settings` are additional
    ones for daemons.

    Raises RuntimeError while another world is open in this process.
    """
    with (
        _alone(),
        tempfile.TemporaryDirectory(prefix="transcriptd-test-") as folder,
        embedded(visibility_timeout_seconds) as aws,
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
