"""`transcriptd demo`: run three jobs end to end on this machine, print the results and verify them.

The daemon runs unmodified in a separate process, configured only by its environment variables. This process provides
everything around it: AWS, the publisher of the jobs, and the webhook receiver.
"""

import json
import queue
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from rich.console import Console

from daemon.demo.aws import EmbeddedAws
from daemon.demo.environment import daemon_environment, new_secret
from daemon.demo.process import DaemonProcess
from daemon.demo.progress import ProgressView
from daemon.demo.receiver import SeenEvent, WebhookReceiver
from daemon.demo.recordings import make_video, sample_call
from daemon.schema.job import plain_name

START_TIMEOUT_SECONDS = 180
# Progress events arrive every second, also for long recordings, so a longer silence is a failure.
SILENCE_TIMEOUT_SECONDS = 180
# A job is counted when its message is deleted, which happens after the final webhook has been delivered.
COUNT_TIMEOUT_SECONDS = 30
VIDEO_SECONDS = 30

MAIN_JOB = "demo-call"
PAGE = "transcript.html"

HEADLINES = (
    "transcriptd_deliveries_total",
    "transcriptd_audio_seconds_total",
    "transcriptd_real_time_factor_sum",
    "transcriptd_model_load_seconds",
    "transcriptd_leases_lost_total",
    "transcriptd_event_attempts_total",
)


@dataclass
class DemoJob:
    """A job of the demo, its expected outcome, and the events received for it."""

    job_id: str
    what: str
    path: Path
    expected: str  # job.completed or job.failed
    expected_code: str | None = None
    events: list[SeenEvent] = field(default_factory=list)

    @property
    def link(self) -> str:
        """Name of the recording next to the saved outputs."""
        return plain_name("recording" + self.path.suffix)

    @property
    def final(self) -> dict[str, Any] | None:
        return next((seen.event for seen in self.events if seen.event["type"] in ("job.completed", "job.failed")), None)


def demo(file: Path | None, save: Path) -> int:
    """Run the demo and save its outputs. Returns exit status 0 only if every expectation was met."""
    console = Console(highlight=False)
    if file is not None and not file.is_file():
        console.print(f"transcriptd demo: {file} is not a file", style="red")
        return 2
    try:
        save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        console.print(
            f"transcriptd demo: {save} cannot be written: {error.strerror}; choose another --save", style="red"
        )
        return 2
    console.rule("[bold]transcriptd demo")
    with tempfile.TemporaryDirectory(prefix="transcriptd-demo-") as folder:
        problems = _run(console, Path(folder), file, save)
    for problem in problems:
        console.print(f"✗ {problem}", style="red", markup=False)
    if not problems:
        console.print("[green]✓ everything happened as it should")
        console.print(f"open the transcript: {save.absolute() / MAIN_JOB / PAGE}", markup=False, soft_wrap=True)
    return 1 if problems else 0


def _run(console: Console, folder: Path, file: Path | None, save: Path) -> list[str]:
    secret = new_secret()
    events: queue.SimpleQueue[SeenEvent] = queue.SimpleQueue()
    jobs = _jobs(folder, file)
    with EmbeddedAws() as aws, WebhookReceiver(secret, events.put) as receiver:
        environment = daemon_environment(aws, receiver, secret, folder / "scratch")
        environment |= {"TRANSCRIPTD_WEBHOOK_PROGRESS_SECONDS": "0.5", "TRANSCRIPTD_FORMATS": "json,md,srt,html"}
        daemon = DaemonProcess(environment, folder / "daemon.log")
        with daemon, _shown_problems(daemon) as problems:
            with console.status("starting the daemon: it loads the models before it receives jobs…"):
                started_at = time.monotonic()
                if not daemon.wait_until_ready(START_TIMEOUT_SECONDS):
                    problems.append("the daemon did not become ready")
                    return problems
            console.print(f"daemon ready after {time.monotonic() - started_at:.1f} s")
            for job in jobs:
                aws.s3.upload_file(str(job.path), aws.input_bucket, job.path.name)
                message = {
                    "job_id": job.job_id,
                    "input": {"bucket": aws.input_bucket, "key": job.path.name},
                    "options": {"audio_url": job.link},  # the page plays the recording next to it
                    "metadata": {"demo": job.what},
                }
                aws.sqs.send_message(QueueUrl=aws.queue_url, MessageBody=json.dumps(message))
            problems += _follow(console, jobs, events)
            if not problems:
                problems += _show(console, aws, jobs, daemon)
                problems += _save(aws, jobs, folder, save)
            if (status := daemon.stop()) != 0:
                problems.append(f"the daemon exited with status {status} after SIGTERM")
    return problems


def _jobs(folder: Path, file: Path | None) -> list[DemoJob]:
    speech = sample_call() if file is None else file
    what = "a telephone call" if file is None else file.name
    video, silent = folder / "speech.mp4", folder / "silent.mp4"
    make_video(speech, video, VIDEO_SECONDS)
    make_video(None, silent, 5)
    return [
        DemoJob(MAIN_JOB, what, speech, "job.completed"),
        DemoJob("demo-video", "the same speech as mp4 video", video, "job.completed"),
        DemoJob("demo-silent", "a video without sound", silent, "job.failed", "no_audio_stream"),
    ]


@contextmanager
def _shown_problems(daemon: DaemonProcess) -> Iterator[list[str]]:
    """Yield a list of problems; at the end, append the last lines of the daemon's log if there are any."""
    problems: list[str] = []
    yield problems
    if problems:
        problems += ["the end of the daemon's log:", *daemon.log_tail()]


def _follow(console: Console, jobs: list[DemoJob], events: "queue.SimpleQueue[SeenEvent]") -> list[str]:
    """Show progress from webhook events until every job has its final event."""
    by_id = {job.job_id: job for job in jobs}
    with ProgressView(console, {job.job_id: job.what for job in jobs}) as view:
        while any(job.final is None for job in jobs):
            try:
                seen = events.get(timeout=SILENCE_TIMEOUT_SECONDS)
            except queue.Empty:
                return [f"no webhook for {SILENCE_TIMEOUT_SECONDS} s"]
            by_id[seen.event["data"]["job_id"]].events.append(seen)
            view.show(seen.event)
    return []


def _show(console: Console, aws: EmbeddedAws, jobs: list[DemoJob], daemon: DaemonProcess) -> list[str]:
    """Print the results, and return everything that differs from the expectation."""
    problems: list[str] = []
    for job in jobs:
        final = job.final or {}
        if final.get("type") != job.expected:
            problems.append(
                f"{job.job_id}: expected {job.expected}, got {final.get('type')}: {final.get('data', {}).get('error')}"
            )
    problems += _show_transcript(console, aws, jobs[0])
    problems += _show_keys(console, aws, jobs)
    problems += _show_events(console, jobs)
    problems += _show_dead_letters(console, aws, jobs)
    problems += _show_metrics(console, daemon)
    return problems


def _show_transcript(console: Console, aws: EmbeddedAws, job: DemoJob) -> list[str]:
    console.rule(f"transcript of {job.what}")
    key = f"transcripts/{job.job_id}/transcript.json"
    try:
        body = aws.s3.get_object(Bucket=aws.output_bucket, Key=key)["Body"].read()
    except aws.s3.exceptions.NoSuchKey:
        return [f"{key} was not written"]
    transcript = json.loads(body)
    colours = dict(zip(transcript["speakers"], ("cyan", "magenta", "yellow", "green", "blue", "red"), strict=False))
    for segment in transcript["segments"]:
        speaker = segment["speaker"] or ""
        console.print(f"{segment['start']:7.2f} s ", style="dim", end="")
        console.print(f"{speaker:<11}", style=colours.get(speaker, ""), end="")
        console.print(segment["text"], markup=False)
    console.print(
        f"{transcript['language']}, {transcript['duration_seconds']:.1f} s, {len(transcript['speakers'])} speakers; "
        f"seconds per stage: {transcript['timings_seconds']}; warnings: {[each['code'] for each in transcript['warnings']]}",
        style="dim",
    )
    if not transcript["segments"]:
        return ["the transcript is empty"]
    if not all(segment["speaker"] for segment in transcript["segments"]):
        return ["a segment has no speaker"]
    return []


def _show_keys(console: Console, aws: EmbeddedAws, jobs: list[DemoJob]) -> list[str]:
    console.rule("objects in S3")
    keys = {item["Key"]: item["Size"] for item in aws.s3.list_objects_v2(Bucket=aws.output_bucket).get("Contents", [])}
    for key, size in keys.items():
        console.print(f"s3://{aws.output_bucket}/{key}  {size:,} bytes")
    names = ("manifest.json", "transcript.json", "transcript.md", "transcript.srt", PAGE)
    wanted = [f"transcripts/{job.job_id}/{name}" for job in jobs if job.expected == "job.completed" for name in names]
    return [f"{key} was not written" for key in wanted if key not in keys]


def _save(aws: EmbeddedAws, jobs: list[DemoJob], temporary: Path, target: Path) -> list[str]:
    """Save the outputs of the jobs, each with its recording: a link, or a copy of a temporary file."""
    try:
        for job in jobs:
            prefix, folder = f"transcripts/{job.job_id}/", target / job.job_id
            folder.mkdir(exist_ok=True)
            for item in aws.s3.list_objects_v2(Bucket=aws.output_bucket, Prefix=prefix).get("Contents", []):
                body = aws.s3.get_object(Bucket=aws.output_bucket, Key=item["Key"])["Body"].read()
                (folder / Path(item["Key"]).name).write_bytes(body)
            link = folder / job.link
            link.unlink(missing_ok=True)
            if job.path.is_relative_to(temporary):
                shutil.copyfile(job.path, link)
            else:
                link.symlink_to(job.path.resolve())
    except OSError as error:
        return [f"{error.filename or target} cannot be written: {error.strerror}; choose another --save"]
    return []


def _show_events(console: Console, jobs: list[DemoJob]) -> list[str]:
    console.rule("webhook events")
    problems = []
    for job in jobs:
        marks = " ".join(
            f"{seen.event['type']} {'✓' if seen.verified else '✗'}"
            for seen in job.events
            if seen.event["type"] != "job.progress"
        )
        progress = sum(seen.event["type"] == "job.progress" for seen in job.events)
        console.print(f"{job.job_id:<12} {marks}  (and {progress} × job.progress; ✓ signature verified)")
        if not all(seen.verified for seen in job.events):
            problems.append(f"{job.job_id}: a signature is invalid")
        if job.events[0].event["type"] != "job.started":
            problems.append(f"{job.job_id}: the first event was {job.events[0].event['type']}")
    return problems


def _show_dead_letters(console: Console, aws: EmbeddedAws, jobs: list[DemoJob]) -> list[str]:
    console.rule("dead-letter queue")
    messages = aws.sqs.receive_message(
        QueueUrl=aws.dlq_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=1
    ).get("Messages", [])
    found = {}
    for message in messages:
        failure = json.loads(message["MessageAttributes"]["Failure"]["StringValue"])
        job_id = json.loads(message["Body"])["job_id"]
        found[job_id] = failure["code"]
        console.print(f"{job_id}: {failure['code']}: {failure['message']} (attempt {failure['attempt']})", markup=False)
    wanted = {job.job_id: job.expected_code for job in jobs if job.expected_code}
    return [] if found == wanted else [f"expected {wanted} in the dead-letter queue, found {found}"]


def _show_metrics(console: Console, daemon: DaemonProcess) -> list[str]:
    console.rule("metrics")
    wanted = {("published", "published"): 2.0, ("dead_lettered", "no_audio_stream"): 1.0}
    samples, found = _counted(daemon, sum(wanted.values()))
    for sample in samples:
        if sample.name in HEADLINES:
            labels = ", ".join(f"{name}={value}" for name, value in sample.labels.items())
            console.print(f"{sample.name}{{{labels}}} {sample.value:g}", markup=False)
    return [] if found == wanted else [f"expected the delivery counts {wanted}, found {found}"]


def _counted(daemon: DaemonProcess, jobs: float) -> tuple[list[Sample], dict[tuple[str, str], float]]:
    """Wait until `jobs` deliveries are counted or time is up. Returns all non-zero samples and the delivery counts."""
    deadline = time.monotonic() + COUNT_TIMEOUT_SECONDS
    while True:
        families = text_string_to_metric_families(daemon.get("/metrics"))
        # Many series exist from the start, with the value 0.
        samples = [sample for family in families for sample in family.samples if sample.value]
        found = {
            (sample.labels["outcome"], sample.labels["reason"]): sample.value
            for sample in samples
            if sample.name == "transcriptd_deliveries_total"
        }
        if sum(found.values()) >= jobs or time.monotonic() >= deadline:
            return samples, found
        time.sleep(0.1)
