"""A recording that is put into a bucket becomes a transcript: real notifications of S3 and the real daemon."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from bench.waiting import wait_for
from bench.world import open_world
from daemon.demo.recordings import sample_call
from daemon.schema.notifications import CreatedObject
from tests.support.aws.strict import StrictAws
from tests.support.notifications import from_eventbridge, from_s3, from_sns, s3_test_event

PROFILES = """
[calls]
prefix = "drop/"
options = {formats = ["json", "srt"], initial_prompt = "say good morning"}
"""


def test_dropped_recording_is_transcribed_once_and_its_results_are_no_jobs(tmp_path: Path) -> None:
    """Recordings and results are in one bucket, which notifies the queue of every new object."""
    (tmp_path / "profiles.toml").write_text(PROFILES)
    with open_world(StrictAws) as world:
        aws, bucket = world.aws, world.aws.output_bucket
        attributes = aws.sqs.get_queue_attributes(QueueUrl=aws.queue_url, AttributeNames=["QueueArn"])["Attributes"]
        queue: Any = {"QueueArn": attributes["QueueArn"], "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
        aws.s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [queue]}
        )
        key = "drop/call.wav"  # ministack does not encode keys
        put = aws.s3.put_object(Bucket=bucket, Key=key, Body=sample_call().read_bytes())
        job_id = CreatedObject(bucket, key, None, put["ETag"].strip('"')).job_id
        with world.daemon(input_buckets=bucket, profiles=str(tmp_path / "profiles.toml")) as daemon:
            completed = world.wait_for(job_id, "job.completed")
            wait_for(lambda: "webhook.json" in world.outputs(job_id), "the event is recorded")
            etag = put["ETag"].strip('"')
            for again in (from_s3, from_eventbridge):
                world.send(json.dumps(from_sns(again(bucket, key, etag=etag))))
            world.send(json.dumps(s3_test_event(bucket)))
            aws.s3.delete_object(Bucket=bucket, Key=key)

            def reasons() -> Counter[str]:
                return Counter(end["reason"] for end in daemon.log_entries("job finished"))

            wanted = {"published": 1, "duplicate": 2, "test_event": 2}  # one is from S3
            wait_for(lambda: reasons() >= Counter(wanted), "every message is settled")
            world.wait_until_empty()
            assert daemon.stop() == 0
            found = reasons()
        outputs = world.outputs(job_id)
        assert completed["data"]["input"] | {"bucket": bucket, "key": key} == completed["data"]["input"]
        assert json.loads(outputs["transcript.json"])["segments"][0]["text"] == "good morning"
        assert {"manifest.json", "transcript.srt", "webhook.json"} <= outputs.keys()
        assert found["own_object"] >= len(outputs)
        assert found.keys() == {*wanted, "own_object", "other_event"}
        assert {seen.event["data"]["job_id"] for seen in world.seen} == {job_id}
        assert world.dead_letters() == []
