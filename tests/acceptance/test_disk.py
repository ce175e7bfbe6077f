"""Recordings that do not fit on the scratch disk are refused before they are downloaded, and blame what is too small."""

import json
import random
import shutil
from collections.abc import Iterator

import pytest

from bench.waiting import PATIENCE_SECONDS
from bench.world import World, open_world
from daemon.aws.download import PART_BYTES
from tests.support.aws.gate import Gate

LIMIT = 2**60
RECORDING = random.Random(1).randbytes(PART_BYTES + 1000)


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.settings["TRANSCRIPTD_MAX_INPUT_BYTES"] = str(LIMIT)
        policy = world.aws.sqs.get_queue_attributes(QueueUrl=world.aws.queue_url, AttributeNames=["RedrivePolicy"])
        wanted = json.loads(policy["Attributes"]["RedrivePolicy"]) | {"maxReceiveCount": 3}
        world.aws.sqs.set_queue_attributes(
            QueueUrl=world.aws.queue_url, Attributes={"RedrivePolicy": json.dumps(wanted)}
        )
        yield world


@pytest.mark.parametrize(
    ("case", "code", "reads"),
    [
        ("above the limit", "object_too_large", 1),  # the job's fault: never retried
        ("larger than the disk", "disk_too_small", 2),  # spends attempts
        ("larger than the free space", "disk_full", 3),  # until the queue's own limit
    ],
)
def test_recording_that_does_not_fit_is_refused_before_the_download(
    world: World, case: str, code: str, reads: int
) -> None:
    disk = shutil.disk_usage(world.folder)
    size = {"above the limit": LIMIT + 1, "larger than the disk": disk.total + 1}.get(case, disk.total)
    world.upload("large.wav", RECORDING)
    with Gate(world.aws.endpoint_url) as gate:
        gate.sizes["s3:GET:large.wav"] = size
        world.settings["AWS_ENDPOINT_URL"] = gate.url
        world.publish("job-1", "large.wav")
        with world.daemon(max_attempts="2") as daemon:
            world.wait_for("job-1", "job.failed", 2 * PATIENCE_SECONDS)
            world.wait_until_empty()
            assert gate.calls.count("s3:GET:large.wav") == reads, "only the first part, once in each delivery"
            assert list(daemon.log_entries("brake engaged")) == []
    (letter,) = world.dead_letters()
    assert letter["failure"]["code"] == code
    assert f"s3://media/large.wav has {size} bytes; the" in letter["failure"]["message"]
    assert world.scratch_files() == []
