"""Each dependency fails, slows down, throttles, hangs and returns garbage under the real daemon, which waits and
recovers.

One daemon survives everything: it must not exit, hang, spin, lose a job, or charge a job an attempt.
"""

import gzip
import json
import random
import time
import urllib.error
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from bench.waiting import PATIENCE_SECONDS
from bench.world import World, open_world
from daemon.aws.download import PART_BYTES
from daemon.demo.process import DaemonProcess
from tests.chaos import proxy as proxy_module
from tests.chaos.proxy import Lie, Proxy
from tests.chaos.schedule import Fault
from tests.support.media.files import chirp, make_wav
from tests.support.monitoring.samples import scraped
from tests.support.webhooks.receiver import OK, Behaviour, Receiver, threaded_receiver

SETTINGS: dict[str, Any] = {
    "visibility_timeout_seconds": 30,  # a message whose response was lost reappears after this time
    "heartbeat_seconds": "3",
    "queue_timeout_seconds": "1",
    "queue_backoff_max_seconds": "1",
    "poll_stall_seconds": "4",
    "storage_timeout_seconds": "1",
    "retry_base_seconds": "0.5",
    "webhook_hosts": "127.0.0.1",
    "webhook_timeout_seconds": "1",
    "webhook_attempts": "3",
    "webhook_backoff_min_seconds": "0.1",
    "webhook_backoff_max_seconds": "0.5",
    "outbox_retry_schedule_seconds": ",".join(map(str, range(1, 60))),
    "max_jobs_in_flight": "8",
}
ENOUGH_CALLS = 4  # failed calls: each but the first was made after another one had failed
# All parts together may send this many with backoff and jitter; a loop without them makes hundreds of calls a second.
MOST_CALLS_A_SECOND = 10
LIVE_SECONDS = 20.0  # prevents a hang; does not measure speed


@dataclass
class Site:
    world: World
    proxy: Proxy
    daemon: DaemonProcess

    def publish(self, job_id: str, **fields: Any) -> None:
        self.world.publish(job_id, "call.wav", **fields)

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        """Wait for the condition while the daemon stays alive and responsive."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert time.monotonic() < deadline, (what, self.daemon.log_tail())
            self.assert_alive()
            time.sleep(0.1)

    def assert_alive(self) -> None:
        assert self.daemon.process.poll() is None, self.daemon.log_tail()
        assert self.daemon.get("/healthz", LIVE_SECONDS)

    def suffer(self, calls: str, fault: Fault | Lie) -> None:
        """Let calls fail until enough of them did, and assert that they were not too many. The fault continues."""
        before, began_at = self.proxy.faults_injected[fault], time.monotonic()
        self.proxy.fail(calls, fault, PATIENCE_SECONDS, "daemon")
        self.wait_until(lambda: self.proxy.faults_injected[fault] >= before + ENOUGH_CALLS, f"{fault} at {calls}")
        time.sleep(max(0.0, began_at + 1 - time.monotonic()))
        made = self.proxy.faults_injected[fault] - before
        assert made <= MOST_CALLS_A_SECOND * (time.monotonic() - began_at)

    def assert_finished(self, *job_ids: str) -> None:
        """Assert that each job completed and sent its webhook, none was charged an attempt or dropped, and no message
        remains."""
        for job_id in job_ids:
            self.world.wait_for(job_id, "job.completed")
            assert json.loads(self.world.outputs(job_id)["manifest.json"])["attempt"] == 1
        self.world.wait_until_empty()
        assert self.world.dead_letters() == []
        self.assert_alive()

    def report(self) -> tuple[bool, dict[str, Any]]:
        try:
            body = self.daemon.get("/readyz")
        except urllib.error.HTTPError as error:
            body = error.read().decode()
        answer = json.loads(body)
        return answer["ready"], answer["checks"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(proxy_module, "LATENCY_SECONDS", 0.5)
        world = stack.enter_context(open_world(**SETTINGS))
        world.upload("call.wav", make_wav(world.folder / "call.wav", chirp(1.0)))
        # Outages raise SQS's own receive count; its redrive limit is not tested here.
        world.aws.sqs.set_queue_attributes(QueueUrl=world.aws.queue_url, Attributes={"RedrivePolicy": ""})
        proxy = stack.enter_context(Proxy(world.aws.endpoint_url, ["daemon"], lambda _: None))
        world.settings["AWS_ENDPOINT_URL"] = proxy.urls["daemon"]
        daemon = stack.enter_context(world.daemon())
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        yield Site(world, proxy, daemon)
        assert daemon.stop() == 0
        assert [line for line in daemon.log_entries() if line["event"] == "unstructured"] == []
        assert list(daemon.log_entries("delivery not settled")) == []


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.THROTTLED, Fault.BLACK_HOLE, *Lie])
def test_daemon_survives_sqs_outages(site: Site, fault: Fault | Lie) -> None:
    """A job in progress keeps its lease or its outcome; another one arrives while nothing can be received."""
    in_hand, waiting = f"in-hand-{fault.name}", f"waiting-{fault.name}"
    site.publish(in_hand, options={"initial_prompt": "sleep 1"})
    site.world.wait_for(in_hand, "job.started")
    outages = len(list(site.daemon.log_entries("queue unavailable")))
    try:
        site.suffer("sqs:*", fault)
        site.publish(waiting)
    finally:
        site.proxy.calm()
    site.assert_finished(in_hand, waiting)
    assert len(list(site.daemon.log_entries("queue unavailable"))) == outages + 1, "logged once, not once per attempt"


@pytest.mark.parametrize(
    "fault", [Fault.ERROR, Fault.SLOW_DOWN, Fault.BLACK_HOLE, Fault.CUT_ANSWER, Lie.PAGE, Lie.EMPTY]
)
def test_daemon_survives_s3_outages(site: Site, fault: Fault | Lie) -> None:
    job_id = f"s3-{fault.name}"
    site.publish(f"{job_id}-in-hand", options={"initial_prompt": "sleep 1"})
    site.world.wait_for(f"{job_id}-in-hand", "job.started")
    try:
        site.publish(job_id)
        site.suffer("s3:*", fault)
    finally:
        site.proxy.calm()
    site.assert_finished(job_id, f"{job_id}-in-hand")


def test_recording_with_shortened_parts_is_never_transcribed(site: Site) -> None:
    """Each answer is valid HTTP with half of the requested part; the last one is whole, so the size is right."""
    recording = site.world.folder / "long.wav"
    with wave.open(str(recording), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        file.writeframes(random.Random(1).randbytes(PART_BYTES + 4_000_000))
    site.world.upload("long.wav", recording)
    try:
        site.world.publish("shortened", "long.wav")
        site.suffer("s3:GET:long.wav", Fault.SHORT_RANGE)
        assert "manifest.json" not in site.world.outputs("shortened")
    finally:
        site.proxy.calm()
    site.assert_finished("shortened")
    manifest = json.loads(site.world.outputs("shortened")["manifest.json"])
    assert manifest["input"]["size_bytes"] == recording.stat().st_size
    samples = scraped(site.daemon.get("/metrics"))
    assert samples["transcriptd_download_parts_repeated_total"] >= 3
    assert samples['transcriptd_downloads_proved_total{checksum="CRC32"}'] >= 1


def test_recording_that_is_stored_with_gzip_is_decoded(site: Site) -> None:
    body = gzip.compress((site.world.folder / "call.wav").read_bytes())
    site.world.aws.s3.put_object(
        Bucket=site.world.aws.input_bucket, Key="encoded.wav", Body=body, ContentEncoding="gzip"
    )
    site.world.publish("encoded", "encoded.wav")
    site.assert_finished("encoded")
    manifest = json.loads(site.world.outputs("encoded")["manifest.json"])
    assert manifest["input"]["size_bytes"] == len(body), "the manifest describes the object"
    assert manifest["duration_seconds"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("calls", ["sqs:*", "s3:*"])
def test_daemon_survives_slow_responses(site: Site, calls: str) -> None:
    job_id = f"slow-{calls[:-2]}"
    site.publish(job_id)
    try:
        site.suffer(calls, Fault.LATENCY)
        site.assert_finished(job_id)
    finally:
        site.proxy.calm()


WEBHOOK_OUTAGES = {
    "failing": Behaviour(status=500),
    "throttling": Behaviour(status=429, headers={"Retry-After": "1"}),
    "black-hole": Behaviour(delay_seconds=3600),
    "page": Behaviour(status=302, headers={"Location": "/login"}, body=b"<html>Please log in</html>"),
    "breaking-off": Behaviour(drop=True),
    "no-http": Behaviour(raw=b"\x00\xff220 mail.example.com ESMTP\r\n"),
}


def test_daemon_survives_outages_of_webhook_receivers(site: Site) -> None:
    """All outages at once: no receiver delays another's job, and each gets its events as soon as it recovers."""
    world = site.world
    with ExitStack() as stack:
        receivers = {
            name: stack.enter_context(threaded_receiver(Receiver(default=behaviour)))
            for name, behaviour in WEBHOOK_OUTAGES.items()
        }
        slow = stack.enter_context(threaded_receiver(Receiver(default=Behaviour(delay_seconds=0.5))))

        def finals(receiver: Receiver) -> list[str]:
            found = [one for one in list(receiver.events) if one.event["type"] == "job.completed"]
            return [one.headers["webhook-id"] for one in found]

        began_at = time.monotonic()
        for name, receiver in {**receivers, "slow": slow}.items():
            site.publish(f"told-{name}", webhook={"url": receiver.url})
        site.wait_until(lambda: all(len(finals(receiver)) >= 3 for receiver in receivers.values()), "three tries each")
        site.wait_until(lambda: len(finals(slow)) >= 1, "the slow receiver got its events")
        world.wait_until_empty()
        for name, receiver in receivers.items():
            assert len(receiver.events) <= MOST_CALLS_A_SECOND * (time.monotonic() - began_at)
            assert json.loads(world.outputs(f"told-{name}")["manifest.json"])["attempt"] == 1
            receiver.default = OK

        def delivered(name: str) -> bool:
            record = world.outputs(f"told-{name}").get("webhook.json")
            return record is not None and json.loads(record)["result"] == "delivered"

        site.wait_until(lambda: all(delivered(name) for name in (*receivers, "slow")), "every receiver got its events")
        assert all(len(set(finals(receiver))) == 1 for receiver in (*receivers.values(), slow))
        assert world.dead_letters() == []
        site.assert_alive()


def test_stalled_poll_fails_readiness_until_it_recovers(site: Site) -> None:
    site.wait_until(lambda: site.report()[0], "ready before")
    site.proxy.fail("sqs:*", Fault.BLACK_HOLE, PATIENCE_SECONDS, "daemon")
    try:
        site.wait_until(lambda: not site.report()[1]["poll"]["ok"], "readiness fails over the poll")
        ready, checks = site.report()
        assert not ready
        assert checks["poll"]["stalled_seconds"] >= float(SETTINGS["poll_stall_seconds"])
        assert "SQS ReceiveMessage failed" in checks["poll"]["error"]
    finally:
        site.proxy.calm()
    site.wait_until(lambda: site.report()[0], "ready again")
    site.publish("after-the-stall")
    site.assert_finished("after-the-stall")
