"""A fleet under a real Prometheus: daemons that do real jobs, fail on purpose, are paused, and are taken away.

What it leaves in Prometheus is what the dashboards are proved with, and what their pictures are drawn from.
"""

import itertools
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.embedded.process import DaemonProcess
from daemon.embedded.recordings import sample_call
from tests.acceptance.world import PATIENCE_SECONDS, World, open_world
from tests.ec2 import FakeEc2
from tests.prometheus import Prometheus, open_prometheus
from tests.receiver import Behaviour, Receiver, threaded_receiver
from tests.waiting import wait_for

NVML = Path(__file__).parent / "nvml"
LEASE_SECONDS = 6
PRODUCTION = "production"
KEPT, SPOT = "i-0kept", "i-0spot"  # what the instances are called

SETTINGS = {
    "heartbeat_seconds": "1",
    "retry_base_seconds": "0.5",
    "max_attempts": "2",
    "runner_restart_base_seconds": "0.05",
    "device_failures": "99",  # they are made on purpose
    "jobs_in_flight": "3",
    "instance_price_per_hour": "1.01",
    "webhook_hosts": "127.0.0.1",
    "webhook_attempts": "2",
    "webhook_backoff_min_seconds": "0.1",
    "webhook_backoff_max_seconds": "0.2",
    "webhook_schedule_seconds": "2,4,6,8,20,40,60,80,100,120,150,180,600",
}


@dataclass
class Fleet:
    world: World
    prometheus: Prometheus
    ec2: FakeEc2
    silent: Receiver  # answers every webhook with 503
    stack: ExitStack
    daemons: dict[str, DaemonProcess] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self, instance: str, deployment: str = PRODUCTION, environment: dict[str, str] | None = None) -> None:
        """Start a daemon and let Prometheus watch it. `environment` are variables beside those of all daemons."""
        own = {
            "TRANSCRIPTD_SCRATCH_DIR": str(self.world.folder / instance),
            "TRANSCRIPTD_WORKER_ID": instance,
            **(environment or {}),
        }
        daemon = replace(self.world, settings=self.world.settings | own).daemon(instance)
        self.daemons[instance] = self.stack.enter_context(daemon)
        wait_for(lambda: any(daemon.log_entries("listening")), f"{instance} listens")
        port = next(daemon.log_entries("listening"))["port"]
        kind = {"lifecycle": "spot" if instance == SPOT else "on-demand", "instance_type": "g6.xlarge"}
        self.prometheus.watch(port, instance=instance, deployment=deployment, **kind)

    def wait_until_watched(self, instance: str) -> None:
        """It is ready and was scraped twice: from then on what happens has a rate."""
        daemon = self.daemons[instance]
        assert daemon.wait_until_ready(PATIENCE_SECONDS), (instance, daemon.log_tail())
        self.prometheus.wait_until(f'sum_over_time(up{{instance="{instance}"}}[1h]) > 1')

    # --- what it is given to do

    def publish(self, prompt: str = "work 0.2", key: str = "call.wav", job_id: str | None = None, **fields: Any) -> str:
        """A job, whose pipeline does what `prompt` says. Its id."""
        job_id = job_id or f"job-{next(self.numbers)}"
        self.world.publish(job_id, key, options={"initial_prompt": prompt}, **fields)
        return job_id

    def publish_troubles(self) -> None:
        """One of each way in which a job can end badly, or nearly so."""
        done = self.publish("warn")
        self.world.wait_for(done, "job.completed")
        self.publish("warn", job_id=done)  # a duplicate
        self.world.send("{")
        self.publish(key="missing.wav")
        self.publish(key="noise.wav")
        for prompt in ("raise", "cuda", "sigkill", "sigkill"):
            self.publish(prompt)
        for _ in range(2):
            self.publish(webhook={"url": self.silent.url})

    def begin_to_resume(self) -> None:
        """A job that takes a minute, and no time at all once another delivery finds its checkpoint. Returns when that is kept."""
        job_id = self.publish("resume 60")
        self.world.wait_until_kept(job_id)

    def lose_and_leave(self) -> None:
        """One instance stands still until it has lost the lease on its job; another one is interrupted with a job in hand.

        Needs KEPT alone, and starts SPOT.
        """
        self.begin_to_resume()
        self.start(SPOT, environment=self.ec2.environment)
        self.wait_until_watched(SPOT)
        paused = self.daemons[KEPT].process
        paused.send_signal(signal.SIGSTOP)
        lost_at = time.monotonic() + LEASE_SECONDS + 1
        try:
            self.begin_to_resume()  # at SPOT: there is no other
            self.ec2.metadata_down = True
            self.prometheus.wait_until(f'transcriptd_metadata_failures_total{{instance="{SPOT}"}} > 0')
            self.ec2.metadata_down = False
            self.ec2.interrupt(in_seconds=120)
            self.prometheus.wait_until(f'transcriptd_interruptions_total{{instance="{SPOT}", kind="spot"}} > 0')
            for twice in (signal.SIGTERM, signal.SIGINT):  # it would finish what it has; told twice, it gives it back
                self.daemons[SPOT].process.send_signal(twice)
            time.sleep(max(0.0, lost_at - time.monotonic()))
        finally:
            paused.send_signal(signal.SIGCONT)
        self.daemons.pop(SPOT).process.wait(PATIENCE_SECONDS)
        self.prometheus.forget(SPOT)
        self.prometheus.wait_until("transcriptd_leases_lost_total > 0")


@contextmanager
def open_fleet(program: str, scrape_seconds: int = 1) -> Iterator[Fleet]:
    """An empty fleet. `program` is prometheus."""
    with ExitStack() as stack:
        world = stack.enter_context(open_world(visibility_timeout_seconds=LEASE_SECONDS, **SETTINGS))
        world.settings["PYTHONPATH"] = str(NVML)
        world.upload("call.wav", sample_call())
        world.upload("noise.wav", b"no media at all")
        folder = world.folder / "prometheus"
        folder.mkdir()
        prometheus = stack.enter_context(open_prometheus(program, folder, scrape_seconds))
        ec2 = stack.enter_context(FakeEc2())
        silent = stack.enter_context(threaded_receiver(Receiver(default=Behaviour(status=503))))
        world.aws.sqs.send_message(QueueUrl=world.aws.dlq_url, MessageBody="what somebody left")
        yield Fleet(world, prometheus, ec2, silent, stack)
