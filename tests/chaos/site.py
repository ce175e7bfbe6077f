"""The environment of a chaos run: AWS behind the proxy, credentials, and a webhook receiver that records event IDs."""

import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from standardwebhooks import Webhook

from daemon.config import Settings
from daemon.demo.aws import REGION, EmbeddedAws
from daemon.demo.loopback import LoopbackServer, QuietHandler
from tests.chaos.credentials import KeyFiles
from tests.chaos.jobs import LONG, SHORT, Job
from tests.chaos.proxy import TRUSTED, Proxy
from tests.support.media.files import chirp, make_wav

SECRET = "whsec_" + base64.b64encode(b"a secret for tests alone, 32 byte").decode()
VISIBILITY_SECONDS = 10
# Far above what a run can reach: a healthy job that was often hit by crashes or freezes must still not be redriven.
MAX_RECEIVES = 1000

# More than one part of a download (daemon/aws/download.py), at 16,000 samples of 4 bytes a second.
LONG_SECONDS = 280.0

# Receivers are slow, because only then does the test notice events that a dying daemon never sent.
ANSWER_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One webhook that arrived."""

    webhook_id: str
    type: str
    job_id: str
    code: str | None = None  # of the error of job.failed


@dataclass
class Site:
    aws: EmbeddedAws
    proxy: Proxy
    keys: KeyFiles
    folder: Path
    webhook_url: str
    max_attempts: int
    digests: dict[str, str] = field(default_factory=dict)  # of the audio of each recording, by key
    received: list[ReceivedEvent] = field(default_factory=list)
    started: set[str] = field(default_factory=set)  # jobs with an event of this type
    ended: set[str] = field(default_factory=set)  # jobs with a final event

    def __post_init__(self) -> None:
        self._sqs = boto3.client(
            "sqs",
            endpoint_url=self.proxy.urls[TRUSTED],
            region_name=REGION,
            aws_access_key_id="embedded",
            aws_secret_access_key="embedded",
        )

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def environment(self, caller: str, worker_id: str) -> dict[str, str]:
        """Return the environment of one daemon, with short leases and timeouts, so that a minute covers many
        crashes."""
        settings = {
            "scratch_dir": str(self.scratch),
            "worker_id": worker_id,
            "min_free_bytes": "1000000",
            "visibility_timeout_seconds": str(VISIBILITY_SECONDS),
            "heartbeat_seconds": "2.5",
            "receive_wait_time_seconds": "1",
            "max_attempts": str(self.max_attempts),
            "retry_base_seconds": "0.2",
            "retry_max_seconds": "1",
            "max_crashed_deliveries": "20",
            "max_jobs_in_flight": "4",
            "runner_start_attempts": "10",
            "runner_restart_base_seconds": "0.1",
            "drain_timeout_seconds": "5",
            "webhook_allow_http": "true",
            "webhook_backoff_min_seconds": "0.2",
            "model": "base",
            "models": "base",
            "pipeline": "bench.scripted_pipeline:ScriptedPipeline",
        }
        # Credentials in the environment would precede those in the file.
        own = {name: value for name, value in self.aws.environment.items() if not name.startswith("AWS_")}
        return {
            **own,
            "AWS_ENDPOINT_URL": self.proxy.urls[caller],
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": str(self.keys.path(caller)),
            "AWS_CONFIG_FILE": str(self.folder / "no-config"),
            "WEBHOOK_URL": self.webhook_url,
            "WEBHOOK_SECRET": SECRET,
            **{
                f"TRANSCRIPTD_{name.upper()}": value
                for name, value in settings.items()
                if name in Settings.model_fields
            },
        }

    def publish(self, job: Job) -> None:
        # Through the proxy, which lets one call change the queue at a time.
        for _ in range(job.copies):
            self._sqs.send_message(QueueUrl=self.aws.queue_url, MessageBody=job.body)

    def delete(self, handle: str) -> None:
        self._sqs.delete_message(QueueUrl=self.aws.queue_url, ReceiptHandle=handle)

    def waiting(self, queue_url: str) -> int:
        """Return the number of messages: visible, delayed and in flight."""
        of_messages = "ApproximateNumberOfMessages"
        names: Any = [of_messages, f"{of_messages}Delayed", f"{of_messages}NotVisible"]
        found: Any = self.aws.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def note(self, event: ReceivedEvent) -> None:
        self.received.append(event)
        if event.type == "job.started":
            self.started.add(event.job_id)
        elif event.type in ("job.completed", "job.failed"):
            self.ended.add(event.job_id)


@contextmanager
def open_site(
    folder: Path | None, callers: list[str], kill: Callable[[str], None], *, max_attempts: int
) -> Iterator[Site]:
    """Open the site. `folder` keeps the logs; None uses a temporary folder."""
    sites: list[Site] = []
    with (
        tempfile.TemporaryDirectory(prefix="transcriptd-chaos-") as temporary,
        EmbeddedAws(VISIBILITY_SECONDS) as aws,
        Proxy(aws.endpoint_url, callers, kill) as proxy,
        _receiver(lambda event: sites[0].note(event)) as webhook_url,
    ):
        redrive: Any = aws.sqs.get_queue_attributes(QueueUrl=aws.queue_url, AttributeNames=["RedrivePolicy"])
        policy = json.loads(redrive["Attributes"]["RedrivePolicy"]) | {"maxReceiveCount": MAX_RECEIVES}
        aws.sqs.set_queue_attributes(QueueUrl=aws.queue_url, Attributes={"RedrivePolicy": json.dumps(policy)})
        keys = KeyFiles(Path(temporary), callers)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        site = Site(aws, proxy, keys, folder or Path(temporary) / "daemons", webhook_url, max_attempts)
        site.folder.mkdir(exist_ok=True)
        for key, seconds in ((SHORT, 1.0), (LONG, LONG_SECONDS)):
            sound = chirp(seconds)
            body = make_wav(Path(temporary) / key, sound).read_bytes()
            aws.s3.put_object(Bucket=aws.input_bucket, Key=key, Body=body)
            site.digests[key] = hashlib.sha256(sound.tobytes()).hexdigest()
        aws.s3.put_object(Bucket=aws.input_bucket, Key="unreadable.bin", Body=b"no recording" * 100)
        sites.append(site)
        yield site


@contextmanager
def _receiver(note: Callable[[ReceivedEvent], None]) -> Iterator[str]:
    """Run a webhook receiver that accepts only valid signatures and notes the event IDs."""
    verifier = Webhook(SECRET)

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            event = json.loads(verifier.verify(body, dict(self.headers)) and body)
            data = event["data"]
            code = data["error"]["code"] if data["error"] else None
            note(ReceivedEvent(self.headers["webhook-id"], event["type"], data["job_id"], code))
            time.sleep(ANSWER_SECONDS)
            self.send_response(204)
            self.end_headers()

    with LoopbackServer(Handler, "chaos receiver") as server:
        yield server.base_url + "/hooks"
