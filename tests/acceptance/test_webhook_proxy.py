"""Webhooks of a real daemon through a real proxy: only to public addresses, and without the proxy's credentials in any output."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.recordings import sample_call
from tests.support.webhooks.certificates import certificate_for
from tests.support.webhooks.connect_proxy import ConnectProxy, connect_proxy
from tests.support.webhooks.receiver import PATH, Receiver, threaded_receiver

PUBLIC = "93.184.215.14"  # never called: the proxy leads its tunnels to the receiver of the test
CREDENTIALS = "operator:pa%24%24word-of-the-proxy"  # percent-encoded, as in a URL
PASSWORD = "pa$$word-of-the-proxy"


@dataclass(frozen=True, slots=True)
class Network:
    world: World
    receiver: Receiver
    proxy: ConnectProxy

    def proxy_url(self, credentials: str) -> str:
        return f"http://{credentials}@127.0.0.1:{self.proxy.port}"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """The address check is in force: no plain HTTP and no private address."""
    certificate = certificate_for(PUBLIC, tmp_path)
    with ExitStack() as stack:
        world = stack.enter_context(open_world(webhook_hosts="*", webhook_allow_http="false", webhook_attempts="2"))
        receiver = stack.enter_context(threaded_receiver(Receiver(tls=certificate.server)))
        proxy = stack.enter_context(connect_proxy(receiver.port, f"operator:{PASSWORD}"))
        world.upload("call.wav", sample_call())
        world.settings |= {
            "SSL_CERT_FILE": str(certificate.file),
            "WEBHOOK_URL": f"https://{PUBLIC}{PATH}",
            "TRANSCRIPTD_WEBHOOK_BACKOFF_MIN_SECONDS": "0.1",
            "TRANSCRIPTD_OUTBOX_URL": "",
            "HTTP_PROXY": "",
            "http_proxy": "",
            "HTTPS_PROXY": "",
            "no_proxy": "",
            "NO_PROXY": "",
        }
        yield Network(world, receiver, proxy)


def ended(world: World, job_id: str) -> str:
    """Return how the final event of a job ended."""
    # Not World.outputs, which also reads the objects that a daemon removes at the end of a job.
    s3, bucket, key = world.aws.s3, world.aws.output_bucket, f"transcripts/{job_id}/webhook.json"
    wait_for(lambda: "Contents" in s3.list_objects_v2(Bucket=bucket, Prefix=key), f"the event of {job_id} has ended")
    record = s3.get_object(Bucket=bucket, Key=key)
    return str(json.loads(record["Body"].read())["result"])


def test_events_reach_the_receiver_through_the_proxy_and_private_addresses_do_not(network: Network) -> None:
    world = network.world
    world.settings["https_proxy"] = network.proxy_url(CREDENTIALS)
    world.publish("public", "call.wav")
    private = ("127.0.0.1", "10.0.0.1", "[::1]", "169.254.169.254")
    for number, host in enumerate(private):
        url = f"https://{host}:{network.receiver.port}{PATH}"
        world.publish(f"private-{number}", "call.wav", webhook={"url": url})
    with world.daemon() as daemon:
        assert ended(world, "public") == "delivered"
        assert [ended(world, f"private-{number}") for number in range(len(private))] == ["refused"] * len(private)
        world.wait_until_empty()
        shown = daemon.get("/status.json") + daemon.get("/metrics")
    assert set(network.proxy.targets) == {f"{PUBLIC}:443"}
    assert network.receiver.types[-1] == "job.completed"
    assert {received.event["data"]["job_id"] for received in network.receiver.events} == {"public"}
    assert "operator" not in daemon.log_path.read_text() + shown


def test_refusal_by_the_proxy_is_reported_without_its_credentials(network: Network) -> None:
    world = network.world
    world.settings["https_proxy"] = network.proxy_url("operator:wrong-secret")
    world.publish("job-1", "call.wav")
    with world.daemon() as daemon:
        assert ended(world, "job-1") == "failed"
        assert network.proxy.refused >= 2, "as many attempts as to a receiver"
        (line,) = daemon.log_entries("webhook receiver failing")
        assert line["error"] == "the proxy answered HTTP 407"
        shown = daemon.get("/status.json") + daemon.get("/metrics")
    assert "wrong-secret" not in daemon.log_path.read_text() + shown
    assert network.receiver.events == []


def test_unusable_proxy_is_refused_at_start_without_its_credentials(network: Network) -> None:
    network.world.settings["https_proxy"] = "socks5://operator:secret-of-the-proxy@127.0.0.1:1080"
    with network.world.daemon() as daemon:
        assert daemon.process.wait(PATIENCE_SECONDS) == 78
    assert "HTTPS_PROXY: must be http://host:port" in daemon.log_path.read_text()
    assert "secret-of-the-proxy" not in daemon.log_path.read_text()
