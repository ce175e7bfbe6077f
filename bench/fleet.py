"""A discrete-event simulation of the fleet that deploy/terraform describes: its scaling policies, SQS and Spot losses.

What is modelled, and the sources:
- CloudWatch: one sample per minute, visible a minute later. Metrics of a queue without activity for six hours arrive up
  to 15 minutes late: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-monitoring-using-cloudwatch.html
- Waking: an alarm on one sample of visible messages while desired capacity is 0; steps by the size of the backlog.
- Target tracking: three consecutive samples above the target, then `ceil(warm instances x metric / target)` each minute.
  Instances in their warm-up count towards desired capacity, but the metric is not multiplied with them:
  https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-default-instance-warmup.html
- Scale-in: an instance that reaches the idle time terminates itself and lowers desired capacity, not below the minimum.
- The daemon: holds two messages, or more until their chunks fill its batches, up to `max_jobs_in_flight`
  (daemon/jobs/receive_limiter.py; here a job counts in full until it is done). It processes one job at a time.
  SQS delivers a message to any polling instance.
- Spot: after the notice 90 s to finish; other jobs return to the queue and continue elsewhere from their last checkpoint.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from daemon.jobs.receive_limiter import BATCHES_PER_DEVICE, JOBS_PER_DEVICE

MINUTE = 60.0
HOUR = 3600.0

QUEUE_INACTIVE_SECONDS = 6 * HOUR
QUEUE_WAKE_LAG_SECONDS = 15 * MINUTE
TRACKING_SAMPLES = 3
SPOT_NOTICE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Policy:
    """The variables of deploy/terraform that affect scaling; the defaults are the module's, which a test checks."""

    min_size: int = 0
    max_size: int = 10
    on_demand_base_capacity: int = 1
    mean_job_seconds: float = 120
    acceptable_wait_seconds: float = 600
    max_jobs_in_flight: int = 16
    batch_size: int = 16  # a daemon setting, not a variable of the module
    warmup_seconds: float = 60
    spot_margin_seconds: float = 30
    idle_seconds: float = 600  # a daemon setting, not a variable of the module
    wake_by_steps: bool = True  # false: always wake one instance, to measure the effect of the steps

    @property
    def backlog_target(self) -> float:
        return max(1.0, self.acceptable_wait_seconds / self.mean_job_seconds)

    def wake_capacity(self, visible: int) -> int:
        """Return the number of instances that the step policy adds to an empty group for this many waiting messages."""
        steps = ((16, 16), (4, 4)) if self.wake_by_steps else ()
        for multiple, instances in steps:
            if visible >= math.ceil(multiple * self.backlog_target):
                return min(instances, self.max_size)
        return 1


@dataclass(frozen=True, slots=True)
class World:
    """Conditions outside of the deployment's control."""

    seed: int = 7
    cold_start_median_seconds: float = 240  # launch, boot, installation, models
    cold_start_sigma: float = 0.25
    spot_losses_per_instance_hour: float = 0.02
    checkpoint_seconds: float = 15  # seconds of work between two checkpoints, the most that is repeated
    capacity: int = 1_000_000  # instances available within quota and zones
    launches_per_minute: int = 500


@dataclass(slots=True, eq=False)
class Job:
    arrives_at: float
    work_seconds: float  # remaining work
    chunks: int  # number of 30 s chunks
    begun_at: float | None = None
    finished_at: float | None = None


@dataclass(slots=True, eq=False)
class Instance:
    launched_at: float
    spot: bool
    in_service_at: float | None = None
    held: deque[Job] = field(default_factory=deque)  # the first one is being processed
    busy_until: float = 0.0
    idle_since: float = 0.0
    leaving: bool = False
    ended_at: float | None = None
    poll_index: int = -1  # its position in the list of polling instances


@dataclass(frozen=True, slots=True)
class Sample:
    """CloudWatch's sample of one minute."""

    at: float
    visible: int | None  # None: not yet published
    in_flight: int
    in_service: int
    desired: int


@dataclass(slots=True)
class Run:
    """The result of a simulation."""

    jobs: list[Job]
    instances: list[Instance]
    samples: list[Sample]
    ended_at: float
    interruptions: int
    busy_seconds: float

    def waits(self) -> list[float]:
        """Return the seconds from arrival until work started, for jobs that started."""
        return sorted(job.begun_at - job.arrives_at for job in self.jobs if job.begun_at is not None)

    def instance_hours(self, *, spot: bool) -> float:
        """Return the hours from launch to termination; a cold start is paid for, too."""
        ends = ((self.ended_at if one.ended_at is None else one.ended_at, one) for one in self.instances)
        return sum(end - one.launched_at for end, one in ends if one.spot is spot) / HOUR

    @property
    def peak_instances(self) -> int:
        return max(sample.in_service for sample in self.samples)


class Simulation:
    """A simulation. `run(jobs)` takes the jobs in order of arrival and ends when all are done or the time is up."""

    def __init__(self, policy: Policy, world: World) -> None:
        self._policy = policy
        self._world = world
        self._random = Random(world.seed)  # not security-relevant: a simulation
        self._events: list[tuple[float, int, str, Instance | None, float]] = []
        self._sequence = 0
        self._visible: deque[Job] = deque()
        self._alive: list[Instance] = []
        self._all: list[Instance] = []
        self._polling: list[Instance] = []
        self._desired = policy.min_size
        self._samples: list[Sample] = []
        self._last_touched = 0.0
        self._blind_until = 0.0
        self._done = 0
        self._interruptions = 0
        self._busy_seconds = 0.0

    def run(self, jobs: Sequence[Job], until: float) -> Run:
        self._at(0.0, "minute")
        arrivals: Iterator[Job] = iter(jobs)
        arriving = next(arrivals, None)
        now = 0.0
        while True:
            due = self._events[0][0]
            if arriving is not None and arriving.arrives_at <= due:
                now = arriving.arrives_at
                self._arrive(now, arriving)
                arriving = next(arrivals, None)
                continue
            if due > until or (self._done == len(jobs) and not self._alive):
                break
            now, _, kind, instance, stamp = heapq.heappop(self._events)
            if kind == "minute":
                self._minute(now)
            elif instance is not None:
                self._happen(now, kind, instance, stamp)
        return Run(list(jobs), self._all, self._samples, now, self._interruptions, self._busy_seconds)

    # --- events ---------------------------------------------------------------------------------------------------

    def _at(self, time: float, kind: str, instance: Instance | None = None, stamp: float = 0.0) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time, self._sequence, kind, instance, stamp))

    def _happen(self, now: float, kind: str, instance: Instance, stamp: float) -> None:
        """Process an event of one instance; `stamp` identifies events that are obsolete."""
        if instance.ended_at is not None:
            return
        if kind == "ready":
            instance.in_service_at = now
            self._rest(now, instance)
            self._fill(now, instance)
        elif kind == "finished" and instance.held and instance.busy_until == stamp:
            self._finish(now, instance)
        elif kind == "idle" and not instance.held and instance.idle_since == stamp:
            self._end_idle(now, instance)
        elif kind == "notice":
            instance.leaving = True
            self._poll(instance)
            self._at(now + SPOT_NOTICE_SECONDS - self._policy.spot_margin_seconds, "lost", instance)
        elif kind == "lost":
            self._lose(now, instance)

    def _arrive(self, now: float, job: Job) -> None:
        if not self._alive and now - self._last_touched > QUEUE_INACTIVE_SECONDS:
            self._blind_until = now + self._random.uniform(0, QUEUE_WAKE_LAG_SECONDS)
        self._last_touched = now
        self._visible.append(job)
        if self._polling:
            self._fill(now, self._random.choice(self._polling))

    def _fill(self, now: float, instance: Instance) -> None:
        """Receive messages as long as there is capacity."""
        while self._visible and self._has_room(instance):
            instance.held.append(self._visible.popleft())
            if len(instance.held) == 1:
                self._begin(now, instance)
        self._poll(instance)

    def _has_room(self, instance: Instance) -> bool:
        held = len(instance.held)
        if instance.leaving or held >= self._policy.max_jobs_in_flight:
            return False
        useful = BATCHES_PER_DEVICE * self._policy.batch_size
        return held < JOBS_PER_DEVICE or sum(job.chunks for job in instance.held) < useful

    def _begin(self, now: float, instance: Instance) -> None:
        job = instance.held[0]
        if job.begun_at is None:
            job.begun_at = now
        instance.busy_until = now + job.work_seconds
        self._at(instance.busy_until, "finished", instance, instance.busy_until)

    def _finish(self, now: float, instance: Instance) -> None:
        job = instance.held.popleft()
        self._busy_seconds += job.work_seconds
        job.work_seconds, job.finished_at = 0.0, now
        self._done += 1
        if instance.held:
            self._begin(now, instance)
        else:
            self._rest(now, instance)
        self._fill(now, instance)

    def _rest(self, now: float, instance: Instance) -> None:
        instance.idle_since = now
        self._at(now + self._policy.idle_seconds, "idle", instance, now)

    def _poll(self, instance: Instance) -> None:
        """Update the list of polling instances; removal swaps with the last one, so it needs no search."""
        polls = instance.in_service_at is not None and instance.ended_at is None and self._has_room(instance)
        if polls and instance.poll_index < 0:
            instance.poll_index = len(self._polling)
            self._polling.append(instance)
        elif not polls and instance.poll_index >= 0:
            last = self._polling.pop()
            if last is not instance:
                self._polling[instance.poll_index] = last
                last.poll_index = instance.poll_index
            instance.poll_index = -1

    # --- Auto Scaling group -----------------------------------------------------------------------------------------

    def _end_idle(self, now: float, instance: Instance) -> None:
        if instance.leaving:
            return
        if self._desired > self._policy.min_size:
            self._desired -= 1
            self._end(now, instance)
        else:
            self._rest(now, instance)

    def _lose(self, now: float, instance: Instance) -> None:
        """Return unfinished jobs to the queue. The group replaces the instance, because desired capacity is
        unchanged."""
        if instance.held:
            job = instance.held[0]
            left = instance.busy_until - now
            begun = job.work_seconds - left
            repeated = min(begun, self._random.uniform(0, self._world.checkpoint_seconds))
            self._busy_seconds += begun
            job.work_seconds = left + repeated
            self._interruptions += 1
        released = list(instance.held)
        instance.held.clear()
        self._end(now, instance)
        for job in released:
            self._visible.append(job)
            if self._polling:
                self._fill(now, self._random.choice(self._polling))

    def _end(self, now: float, instance: Instance) -> None:
        instance.ended_at = now
        self._poll(instance)
        self._alive.remove(instance)
        self._last_touched = now

    def _launch(self, now: float) -> None:
        world = self._world
        room = min(self._desired, world.capacity) - len(self._alive)
        on_demand = sum(not one.spot for one in self._alive)
        for _ in range(min(room, world.launches_per_minute)):
            spot = on_demand >= self._policy.on_demand_base_capacity
            on_demand += not spot
            instance = Instance(now, spot)
            self._alive.append(instance)
            self._all.append(instance)
            cold_start = world.cold_start_median_seconds * self._random.lognormvariate(0, world.cold_start_sigma)
            self._at(now + cold_start, "ready", instance)
            if spot and world.spot_losses_per_instance_hour > 0:
                lives = self._random.expovariate(world.spot_losses_per_instance_hour / HOUR)
                self._at(now + cold_start + lives, "notice", instance)

    # --- CloudWatch, once a minute ----------------------------------------------------------------------------------

    def _minute(self, now: float) -> None:
        self._decide(now)
        self._launch(now)
        in_flight = sum(len(one.held) for one in self._alive)
        in_service = sum(one.in_service_at is not None for one in self._alive)
        visible = None if now < self._blind_until else len(self._visible)
        self._samples.append(Sample(now, visible, in_flight, in_service, self._desired))
        self._at(now + MINUTE, "minute")

    def _decide(self, now: float) -> None:
        """Apply the scaling policies to the published samples; the newest one is a minute old."""
        policy = self._policy
        if not self._samples:
            return
        newest = self._samples[-1]
        wanted = self._desired
        if newest.desired < 1 and newest.visible:
            wanted = max(wanted, policy.wake_capacity(newest.visible))
        recent = [backlog_per_instance(sample) for sample in self._samples[-TRACKING_SAMPLES:]]
        if len(recent) == TRACKING_SAMPLES and all(one is not None and one > policy.backlog_target for one in recent):
            warm = sum(
                one.in_service_at is not None and now - one.in_service_at >= policy.warmup_seconds
                for one in self._alive
            )
            wanted = max(wanted, math.ceil(warm * (recent[-1] or 0) / policy.backlog_target))
        self._desired = min(wanted, policy.max_size)


def backlog_per_instance(sample: Sample) -> float | None:
    """Compute the module's metric math: `visible / IF(in_service > 0, in_service, 1)`; None without data of the
    queue."""
    return None if sample.visible is None else sample.visible / max(sample.in_service, 1)
