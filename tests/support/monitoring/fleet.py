"""A fleet monitored by a real Prometheus: daemons that run real jobs, fail on purpose, are paused and are interrupted.

Tests evaluate the dashboards on the series this produces.
"""

import itertools
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.aws.ec2 import FakeEc2
from tests.support.monitoring.prometheus import Prometheus, open_prometheus
from tests.support.webhooks.receiver import Behaviour, Receiver, threaded_receiver

NVML = Path(__file__).parents[1] / "nvml"
LEASE_SECONDS = 6
PRODUCTION = "production"
KEPT, SPOT = "i-0kept", "i-0spot"  # instance names

SETTINGS = {
    "heartbeat_seconds": "1",
    "retry_base_seconds": "0.5",
    "max_attempts": "2",
    "runner_restart_base_seconds": "0.05",
    "max_device_failures": "99",  # the tests provoke them
    "max_jobs_in_flight": "3",
    "metrics_tenants": "acme",
    "instance_price_per_hour": "1.01",
    "webhook_hosts": "127.0.0.1",
    "webhook_attempts": "2",
    "webhook_backoff_min_seconds": "0.1",
    "webhook_backoff_max_seconds": "0.2",
    "outbox_retry_schedule_seconds": "2,4,6,8,20,40,60,80,100,120,150,180,600",
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
        """Start a daemon and let Prometheus scrape it. `environment` is added to the environment that all daemons
        share."""
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
        """Wait until the instance is ready and was scraped twice, so that rates are defined from then on."""
        daemon = self.daemons[instance]
        assert daemon.wait_until_ready(PATIENCE_SECONDS), (instance, daemon.log_tail())
        self.prometheus.wait_until(f'sum_over_time(up{{instance="{instance}"}}[1h]) > 1')

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def publish(self, prompt: str = "work 0.2", key: str = "call.wav", job_id: str | None = None, **fields: Any) -> str:
        """Publish a job whose pipeline does what `prompt` says, and return its ID."""
        job_id = job_id or f"job-{next(self.numbers)}"
        self.world.publish(job_id, key, options={"initial_prompt": prompt}, **fields)
        return job_id

    def publish_troubles(self) -> None:
        """Publish one job for each way a job can fail or almost fail."""
        done = self.publish("warn", tenant="acme")
        self.world.wait_for(done, "job.completed")
        self.publish("warn", job_id=done)  # a duplicate
        self.world.send("{")
        self.publish(key="missing.wav")
        self.publish(key="noise.wav", tenant="globex")
        for prompt in ("raise", "cuda", "sigkill", "sigkill"):
            self.publish(prompt)
        for _ in range(2):
            self.publish(webhook={"url": self.silent.url})

    def begin_to_resume(self) -> None:
        """Publish a job that takes a minute, and no time if a later delivery finds its checkpoint. Return once that is
        stored."""
        job_id = self.publish("resume 60")
        self.world.wait_until_kept(job_id)

    def lose_and_leave(self) -> None:
        """Pause one instance until it has lost the lease on its job, and interrupt another one while it runs a job.

        Requires that only KEPT is running; starts SPOT.
        """
        self.begin_to_resume()
        self.start(SPOT, environment=self.ec2.environment)
        self.wait_until_watched(SPOT)
        paused = self.daemons[KEPT].process
        paused.send_signal(signal.SIGSTOP)
        lost_at = time.monotonic() + LEASE_SECONDS + 1
        try:
            self.begin_to_resume()  # runs on SPOT, the only other instance
            self.ec2.metadata_down = True
            self.prometheus.wait_until(f'transcriptd_imds_poll_failures_total{{instance="{SPOT}"}} > 0')
            self.ec2.metadata_down = False
            self.ec2.interrupt(in_seconds=120)
            self.prometheus.wait_until(f'transcriptd_interruptions_total{{instance="{SPOT}", kind="spot"}} > 0')
            for twice in (signal.SIGTERM, signal.SIGINT):  # the first signal drains, the second one interrupts the job
                self.daemons[SPOT].process.send_signal(twice)
            time.sleep(max(0.0, lost_at - time.monotonic()))
        finally:
            paused.send_signal(signal.SIGCONT)
        self.daemons.pop(SPOT).process.wait(PATIENCE_SECONDS)
        self.prometheus.forget(SPOT)
        self.prometheus.wait_until("transcriptd_leases_lost_total > 0")


@contextmanager
def open_fleet(program: str) -> Iterator[Fleet]:
    """Open an empty fleet. `program` is the prometheus binary."""
    with ExitStack() as stack:
        world = stack.enter_context(open_world(visibility_timeout_seconds=LEASE_SECONDS, **SETTINGS))
        world.settings["PYTHONPATH"] = str(NVML)
        world.upload("call.wav", sample_call())
        world.upload("noise.wav", b"no media at all")
        folder = world.folder / "prometheus"
        folder.mkdir()
        prometheus = stack.enter_context(open_prometheus(program, folder))
        ec2 = stack.enter_context(FakeEc2())
        silent = stack.enter_context(threaded_receiver(Receiver(default=Behaviour(status=503))))
        world.aws.sqs.send_message(QueueUrl=world.aws.dlq_url, MessageBody="what somebody left")
        yield Fleet(world, prometheus, ec2, silent, stack)
