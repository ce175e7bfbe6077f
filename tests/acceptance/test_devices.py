"""The real daemon with two devices: both work, and a crash of one does not affect the other's job."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

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


def devices(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.get("/readyz"))["checks"]["runner"]["devices"]
    return found


def test_two_devices_share_the_queue_and_a_crash_affects_one_job(world: World) -> None:
    def begun() -> dict[str, str]:
        """Return the device that each job runs on."""
        return {line["job_id"]: line["device"] for line in daemon.log_entries("talking")}

    with world.daemon(
        devices="cpu,cpu",
        retry_base_seconds="0.1",
        checkpoint_after_seconds="0",
        pipeline="tests.support.pipelines.talking:TalkingPipeline",
    ) as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        wait_for(
            lambda: [it["state"] for it in devices(daemon).values()] == ["ready", "ready"], "both devices are ready"
        )
        world.publish("victim", "call.wav", options={"initial_prompt": "resume 600"})
        world.wait_until_kept("victim")
        gate = world.folder / "gate"
        world.publish("neighbour", "call.wav", options={"initial_prompt": f"until {gate}"})
        wait_for(lambda: set(begun()) == {"victim", "neighbour"}, "both jobs have started")
        on = begun()
        assert set(on.values()) == {"cpu:0", "cpu:1"}
        assert [it["state"] for it in devices(daemon).values()] == ["busy", "busy"]
        (started,) = [line for line in daemon.log_entries("runner starting") if line["device"] == on["victim"]]
        os.kill(started["runner_pid"], signal.SIGKILL)
        world.wait_for("victim", "job.completed")
        assert world.events("neighbour")[-1].event["type"] != "job.completed"
        gate.touch()
        for job_id in on:
            world.wait_for(job_id, "job.completed")
        world.wait_until_empty()
        found = scraped(daemon.get("/metrics"))
        shown = {it["device"]: it["restarts"] for it in json.loads(daemon.get("/status.json"))["runners"]}
    for job_id, attempt, restarts in (("victim", 2, {"signal": 1}), ("neighbour", 1, {})):
        device = on[job_id]
        assert json.loads(world.outputs(job_id)["manifest.json"])["attempt"] == attempt
        assert shown[device] == restarts
        assert found[f'transcriptd_runner_restarts_total{{device="{device}",reason="signal"}}'] == len(restarts)
        assert found[f'transcriptd_runner_busy_seconds_total{{device="{device}"}}'] > 0
