"""The environment of a chaos run: AWS behind the proxy, a webhook receiver that records event IDs, and the jobs."""

import base64
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from standardwebhooks import Webhook

from daemon.config import Settings
from daemon.demo.aws import REGION, EmbeddedAws
from daemon.demo.loopback import LoopbackServer, QuietHandler
from tests.chaos.proxy import TRUSTED, Proxy
from tests.support.media.files import chirp, make_wav

SECRET = "whsec_" + base64.b64encode(b"a secret for tests alone, 32 byte").decode()
VISIBILITY_SECONDS = 6
# Far above what a run can reach: a healthy job that was often hit by crashes or freezes must still not be redriven.
MAX_RECEIVES = 1000

# Producers resend a message if they get no response: simulated for one in this many healthy jobs.
SENT_TWICE_EVERY = 10

# Receivers are slow, because only then does the test notice events that a dying daemon never sent.
ANSWER_SECONDS = 0.2

# The behaviour of the poisoned jobs, used in rotation.
POISONS: tuple[dict[str, Any], ...] = (
    {"prompt": "exit"},
    {"key": "unreadable.bin"},
    {"prompt": "sigkill"},
    {"key": "missing.wav"},
)


@dataclass(frozen=True, slots=True)
class Job:
    job_id: str
    poisoned: bool
    body: str
    copies: int = 1


def make_jobs(healthy: int, poisoned: int) -> list[Job]:
    """Return the jobs in publishing order, with the poisoned ones spread evenly among the others."""
    jobs: list[Job] = []
    for number in range(healthy + poisoned):
        is_poison = poisoned > 0 and number * poisoned // (healthy + poisoned) != (number + 1) * poisoned // (
            healthy + poisoned
        )
        poison = POISONS[sum(job.poisoned for job in jobs) % len(POISONS)] if is_poison else {}
        job_id = f"{'poison' if is_poison else 'job'}-{number:04d}"
        body = {
            "job_id": job_id,
            "input": {"bucket": EmbeddedAws.input_bucket, "key": poison.get("key", "short.wav")},
            # Each run of a job has a different transcript, as with a real model's timings, so that mixed outputs are
            # detected.
            "options": {"initial_prompt": poison.get("prompt", "vary 0.1")},
        }
        copies = 2 if not is_poison and number % SENT_TWICE_EVERY == 0 else 1
        jobs.append(Job(job_id, is_poison, json.dumps(body), copies))
    return jobs


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One webhook that arrived."""

    webhook_id: str
    type: str
    job_id: str | None


@dataclass
class Site:
    aws: EmbeddedAws
    proxy: Proxy
    folder: Path
    webhook_url: str
    received: list[ReceivedEvent]
    max_attempts: int

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

    def environment(self, caller: str) -> dict[str, str]:
        """Return the environment of one daemon, with short leases and timeouts, so that a minute covers many
        crashes."""
        settings = {
            "scratch_dir": str(self.scratch),
            "worker_id": caller,
            "min_free_bytes": "1000000",
            "visibility_timeout_seconds": str(VISIBILITY_SECONDS),
            "heartbeat_seconds": "1.5",
            "receive_wait_time_seconds": "1",
            "max_attempts": str(self.max_attempts),
            "retry_base_seconds": "0.2",
            "retry_max_seconds": "1",
            "max_crashed_deliveries": "20",
            "max_jobs_in_flight": "2",
            "runner_start_attempts": "10",
            "runner_restart_base_seconds": "0.1",
            "drain_timeout_seconds": "5",
            "webhook_allow_http": "true",
            "webhook_backoff_min_seconds": "0.2",
            "model": "base",
            "models": "base",
            "pipeline": "bench.scripted_pipeline:ScriptedPipeline",
        }
        return {
            **self.aws.environment,
            "AWS_ENDPOINT_URL": self.proxy.urls[caller],
            "WEBHOOK_URL": self.webhook_url,
            "WEBHOOK_SECRET": SECRET,
            **{
                f"TRANSCRIPTD_{name.upper()}": value
                for name, value in settings.items()
                if name in Settings.model_fields
            },
        }

    def publish(self, job: Job) -> None:
        # Through the proxy, which records this call separately from the daemons' deletes.
        for _ in range(job.copies):
            self._sqs.send_message(QueueUrl=self.aws.queue_url, MessageBody=job.body)

    def waiting(self, queue_url: str) -> int:
        """Return the number of messages: visible, delayed and in flight."""
        of_messages = "ApproximateNumberOfMessages"
        names: Any = [of_messages, f"{of_messages}Delayed", f"{of_messages}NotVisible"]
        found: Any = self.aws.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)


@contextmanager
def open_site(
    folder: Path | None, callers: list[str], kill: Callable[[str], None], *, max_attempts: int
) -> Iterator[Site]:
    """Open the site. `folder` keeps the logs; None uses a temporary folder."""
    received: list[ReceivedEvent] = []
    with (
        tempfile.TemporaryDirectory(prefix="transcriptd-chaos-") as temporary,
        EmbeddedAws(VISIBILITY_SECONDS) as aws,
        Proxy(aws.endpoint_url, callers, kill) as proxy,
        _receiver(received) as webhook_url,
    ):
        redrive: Any = aws.sqs.get_queue_attributes(QueueUrl=aws.queue_url, AttributeNames=["RedrivePolicy"])
        policy = json.loads(redrive["Attributes"]["RedrivePolicy"]) | {"maxReceiveCount": MAX_RECEIVES}
        aws.sqs.set_queue_attributes(QueueUrl=aws.queue_url, Attributes={"RedrivePolicy": json.dumps(policy)})
        recording = make_wav(Path(temporary) / "short.wav", chirp(1.0)).read_bytes()
        for key, body in (("short.wav", recording), ("unreadable.bin", b"no recording" * 100)):
            aws.s3.put_object(Bucket=aws.input_bucket, Key=key, Body=body)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        yield Site(aws, proxy, folder or Path(temporary), webhook_url, received, max_attempts)


@contextmanager
def _receiver(received: list[ReceivedEvent]) -> Iterator[str]:
    """Run a webhook receiver that accepts only valid signatures and records the event IDs."""
    verifier = Webhook(SECRET)

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            event = json.loads(verifier.verify(body, dict(self.headers)) and body)
            received.append(ReceivedEvent(self.headers["webhook-id"], event["type"], event["data"]["job_id"]))
            time.sleep(ANSWER_SECONDS)
            self.send_response(204)
            self.end_headers()

    with LoopbackServer(Handler, "chaos receiver") as server:
        yield server.base_url + "/hooks"
