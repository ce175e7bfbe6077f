"""The real daemon's metrics at /metrics: its queues, its work, its machine."""

from collections.abc import Iterator

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.monitoring.samples import scraped


@pytest.fixture
def world() -> Iterator[World]:
    with open_world() as world:
        world.upload("call.wav", sample_call())
        yield world


def metrics_of(daemon: DaemonProcess) -> dict[str, float]:
    return {name.removeprefix("transcriptd_"): value for name, value in scraped(daemon.get("/metrics")).items()}


def test_queue_work_and_machine_are_measured(world: World) -> None:
    world.aws.sqs.send_message(QueueUrl=world.aws.dlq_url, MessageBody="somebody's")
    for number in range(3):
        world.publish(f"job-{number}", "call.wav", options={"initial_prompt": "sleep 1"})
    world.send("{")
    with world.daemon(instance_price_per_hour="0.75") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        at_first = metrics_of(daemon)
        for number in range(3):
            world.wait_for(f"job-{number}", "job.completed")
        world.wait_until_empty()
        world.wait_until_counted(daemon, 4)
        found = metrics_of(daemon)

    # Is the queue moving? Read before anything was received, and not again in this test.
    assert at_first['queue_messages{kind="jobs",queue="jobs",state="visible"}'] == 4
    assert at_first['queue_messages{kind="dead_letter",queue="jobs",state="visible"}'] == 1
    assert at_first['queue_messages{kind="outbox",queue="outbox",state="visible"}'] == 0
    assert at_first['queue_depth_polls_total{kind="jobs",queue="jobs",result="ok"}'] >= 1
    assert found['last_queue_wait_seconds{queue="jobs"}'] > 0
    assert found['poll_stalled_seconds{queue="jobs"}'] < PATIENCE_SECONDS
    assert -60 < found["clock_skew_seconds"] < 60
    # Is the work healthy and correct?
    assert found["message_receive_count_count"] == 4
    assert found['message_receive_count_bucket{le="1.0"}'] == 4
    assert found['deliveries_total{outcome="dead_lettered",reason="invalid_json"}'] == 1
    assert found['transcripts_total{language="en"}'] == 3
    assert found["transcript_avg_logprob_count"] == 3
    assert found['asr_chunks_total{result="kept"}'] == 9
    assert found['asr_chunks_total{result="rejected"}'] == 3
    # How fast is it, and what does it cost?
    assert found["asr_batch_fill_ratio_sum"] == pytest.approx(0.75)
    # all three roughly in parallel
    assert 1 <= found['runner_busy_seconds_total{device="cpu"}'] < PATIENCE_SECONDS
    assert found['receive_capacity{queue="jobs"}'] == 16
    assert found["jobs_waiting"] == found["audio_in_flight_seconds"] == 0
    assert found["audio_seconds_total"] == 90
    assert found["instance_price_per_hour"] == 0.75
    # Is the machine healthy?
    assert found["event_loop_lag_seconds_count"] > 0
    assert found["scratch_free_bytes"] > found["scratch_min_free_bytes"] == 1_000_000
    assert found['runner_memory_bytes{device="cpu",where="host"}'] > 1e6
    assert found["process_resident_memory_bytes"] > 1e6


def test_running_job_counts_as_busy_time(world: World) -> None:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        assert metrics_of(daemon)['runner_busy_seconds_total{device="cpu"}'] == 0
        world.publish("long", "call.wav", options={"initial_prompt": "sleep 600"})
        world.wait_for("long", "job.progress")
        wait_for(lambda: metrics_of(daemon)['runner_busy_seconds_total{device="cpu"}'] > 2, "the busy time rises")
        assert metrics_of(daemon)['jobs_in_flight{queue="jobs"}'] == 1
        assert world.outputs("long").keys() <= {"checkpoints/deliveries.json", "status.json"}
        daemon.process.kill()
