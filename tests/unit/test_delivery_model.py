"""Exactly one outcome for every delivery, checked by search. The real poller, lease, processor, queue adapter and
results run on several simulated hosts against an SQS and an S3 that misbehave in every documented way, while hosts
crash, pause and lose their network. Hypothesis searches for an order of events that breaks a guarantee, and shrinks it.

The guarantees of each delivery are checked by `Account`, a second and simpler model of the lease.
"""

import asyncio
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, cast, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from daemon.aws.queues import Queues
from daemon.aws.s3 import StoredObject
from daemon.aws.sqs import Queue, ReceivedMessage
from daemon.config import Settings
from daemon.errors import MessageGone, NoAudio, RunnerCrashed, StorageUnavailable, TranscriptdError
from daemon.jobs.brake import Brake
from daemon.jobs.cancellation import Cancellation
from daemon.jobs.delivery import Accepted, DeliveryResult, LiveDelivery, Transcribed
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.late_outputs import LateOutputs
from daemon.jobs.lease import MARGIN_SHARE
from daemon.jobs.processor import Processor
from daemon.jobs.publisher import Publisher
from daemon.jobs.receive_limiter import ReceiveLimiter, WorkEstimate
from daemon.jobs.result_store import ResultStore
from daemon.jobs.tenant_limit import TenantLimit
from daemon.jobs.tracker import JobTracker
from daemon.jobs.transcriber import ProgressHandler, Transcriber
from daemon.outputs import OutputFile
from daemon.poller import Poller
from daemon.schema.job import Job
from daemon.schema.job_status import CANCEL_NAME, STATUS_NAME, JobStatus
from daemon.schema.manifest import MANIFEST_NAME, InputObject, Manifest, StoredOutput
from daemon.schema.transcript import Models, Transcript
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Tracer
from daemon.webhooks.sender import EventSender
from tests.support.aws.fakes import FakeSqs, FakeStorage, Fault, Machine, Mishap, SqsConnection, StoredMessage
from tests.support.builders import some_settings
from tests.support.time.virtual import VirtualTime

VISIBILITY_SECONDS = 120.0
MAX_CRASHED_DELIVERIES = 3
MAX_ATTEMPTS = 3
MOST_WORKERS = 3
PREFIX = some_settings().output_prefix

# What a job does to the daemon that runs it.
Kind = Literal["fine", "flaky", "stormy", "failing", "faulty", "hopeless", "invalid", "endless", "poison"]
# The dead-letter code of each kind of job that must not succeed.
DEAD_LETTER_CODES: dict[Kind, str] = {
    "failing": "runner_crashed",
    "faulty": "internal_error",
    "hopeless": "no_audio_stream",
    "invalid": "invalid_message",
    "endless": "job_timeout",
    "poison": "crash_suspect",
}
SILENCE = Transcript(
    schema_version="1.0",
    job_id="any",
    task="transcribe",
    language=None,
    language_probability=None,
    language_probabilities={},
    start_seconds=0,
    duration_seconds=1,
    speakers=[],
    speaker_embeddings=None,
    segments=[],
    models=Models(asr="a", vad="v", alignment=None, diarization=None, device="cpu", compute_type="int8"),
    timings_seconds={},
    redactions={},
    warnings=[],
)
# Time after each step: from an instant to longer than a heartbeat or a lease.
MOMENTS = st.sampled_from([0.0, 0.1, 1.0, 7.0, 25.0, 40.0, 130.0])
SECONDS = st.sampled_from([0.0, 1.0, 50.0, 200.0, 600.0])


@dataclass
class Account:
    """The calls that one delivery's worker made for the message, and until when it can prove that it holds the
    lease."""

    message: ReceivedMessage
    worker: "Worker"
    proven_until: float
    calls: list[str] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    in_flight: int = 0
    ended: bool = False
    silent: bool = False  # its outcome was not recorded, or too late


@dataclass
class DeliveryMonitor:
    """The accounts of all deliveries, and the violated guarantees."""

    clock: VirtualTime
    sqs: FakeSqs
    accounts: dict[str, Account] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)  # message ID → failures of the job itself
    broken: list[str] = field(default_factory=list)
    escaped: bool = False  # an exception ended a delivery

    def received(self, message: ReceivedMessage, worker: "Worker", sent_at: float) -> None:
        lease_seconds = VISIBILITY_SECONDS * (1 - MARGIN_SHARE)
        self.accounts[message.receipt_handle] = Account(message, worker, sent_at + lease_seconds)

    def acts(self, message: ReceivedMessage, name: str) -> Account:
        """Check a call of the delivery, or the publication of its result, just before it leaves the worker."""
        account = self.accounts[message.receipt_handle]
        account.calls.append(name)
        story = f"{account.worker.name} {message.receipt_handle} {' '.join(account.calls)}"
        stored = self.sqs.receipts[message.receipt_handle].message
        # SQS may refuse the older handle of a message that it delivered twice: to that delivery the message is gone.
        gone = "(retry |release )?" if stored.disturbed else ""
        # A message of a tenant at its limit may be recalled, as long as it is hidden.
        recalled = "retry release |" if message.tenant and "extend" not in account.calls else ""
        if not re.fullmatch(
            rf"(extend )*(publish )?(extend )*({recalled}(delete )*|(retry )*|(release )*|{gone}(dead )+(delete )*)",
            " ".join([*account.calls, ""]),
        ):
            self.broken.append(f"{story}: more than one outcome, or work after an outcome")
        if name != "extend" and name in account.accepted:
            self.broken.append(f"{story}: done twice")
        if account.in_flight and name != "publish":
            self.broken.append(f"{story}: the one before is still in flight")
        if self.clock.now >= account.proven_until:
            self.broken.append(f"{story}: {self.clock.now - account.proven_until:.3f} s after the loss")
        if not stored.disturbed and not stored.deleted and not self.sqs.owns(message.receipt_handle):
            self.broken.append(f"{story}: the lease was no longer ours")
        return account

    def fell_silent(self, worker: "Worker") -> None:
        """Mark the deliveries of a worker that died or paused: they may now look as if they had crashed it."""
        for account in self.accounts.values():
            account.silent |= account.worker is worker and not account.ended

    def silent(self, message_id: str) -> int:
        return sum(each.silent for each in self.accounts.values() if each.message.message_id == message_id)


class WatchedQueue(Queue):
    """The real queue adapter; every call is recorded in the delivery's account."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(
            cast(Any, SqsConnection(worker.world.sqs, worker.machine)),
            worker.settings,
            worker.settings.queues[0],
            worker.world.clock,
        )
        self._worker = worker
        self._watch = worker.world.watch

    async def receive(self, max_messages: int) -> list[ReceivedMessage]:
        sent_at = self._watch.clock.now
        messages = await super().receive(max_messages)
        for message in messages:
            self._watch.received(message, self._worker, sent_at)
        return messages

    async def extend(self, message: ReceivedMessage, seconds: float) -> None:
        sent_at = self._watch.clock.now
        try:
            await self._watched(message, "extend", super().extend(message, seconds))
        except MessageGone:
            account = self._watch.accounts[message.receipt_handle]
            if self._watch.clock.now < account.proven_until:  # finished without the message
                account.proven_until = math.inf
            raise
        proven_until = sent_at + seconds - VISIBILITY_SECONDS * MARGIN_SHARE
        self._watch.accounts[message.receipt_handle].proven_until = proven_until

    async def release(self, message: ReceivedMessage) -> None:
        await self._watched(message, "release", super().release(message))

    async def retry(self, message: ReceivedMessage, delay_seconds: float) -> None:
        sent_at = self._watch.clock.now
        await self._watched(message, "retry", super().retry(message, delay_seconds))
        # A message of a tenant at its limit can be recalled up to then; no other message is used after its outcome.
        self._watch.accounts[message.receipt_handle].proven_until = sent_at + delay_seconds

    async def delete(self, message: ReceivedMessage) -> None:
        await self._watched(message, "delete", super().delete(message))

    async def dead_letter(self, message: ReceivedMessage, error: TranscriptdError, attempt: int) -> None:
        await self._watched(message, "dead", super().dead_letter(message, error, attempt))

    async def _watched(self, message: ReceivedMessage, name: str, call: Coroutine[Any, Any, None]) -> None:
        if not self._worker.machine.alive:
            call.close()
            raise asyncio.CancelledError
        account = self._watch.acts(message, name)
        account.in_flight += 1
        try:
            await call
        finally:
            account.in_flight -= 1
        account.accepted.add(name)


class WatchedResults(ResultStore):
    """The real results store; marks deliveries whose record S3 did not accept."""

    watch: DeliveryMonitor

    async def end(self, job: Job, message_id: str, receive_count: int, *args: Any, **kwargs: Any) -> None:
        try:
            await super().end(job, message_id, receive_count, *args, **kwargs)
        except TranscriptdError:
            self.watch.accounts[f"{message_id}/{receive_count}"].silent = True
            raise


class WatchedProcessor(Processor):
    """The real processor; reports when it has finished a delivery."""

    watch: DeliveryMonitor

    async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None:
        await super().process(message, interrupt, estimate)
        self.watch.accounts[message.receipt_handle].ended = True

    def _notify_observers(self, ended: DeliveryResult) -> None:
        self.watch.escaped |= ended.outcome == "unsettled"  # not a failed outcome call: an exception
        super()._notify_observers(ended)


class ScriptedTranscriber(Transcriber):
    """A transcriber that affects its worker as the kind of the job requires."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._watch = worker.world.watch

    async def transcribe(self, accepted: Accepted, delivery: LiveDelivery, on_progress: ProgressHandler) -> Transcribed:
        job = accepted.job
        kind, seconds = self._worker.world.jobs[job.job_id]
        message_id = delivery.message.message_id
        on_progress()
        await asyncio.sleep(seconds)
        match kind:
            case "poison":
                self._worker.machine.die()
                raise asyncio.CancelledError
            case "endless":
                await asyncio.sleep(10 * self._worker.settings.job_timeout_seconds)
            case "hopeless":
                raise NoAudio("there is no sound")
            case "stormy" if delivery.message.receive_count == 1:
                raise StorageUnavailable("S3 failed")
            case "failing" | "faulty" | "flaky" if kind != "flaky" or not self._watch.failures[message_id]:
                self._watch.failures[message_id] += 1
                if kind == "faulty":  # a library's own timeout is an ordinary failure, not the job's time limit
                    raise TimeoutError if self._watch.failures[message_id] % 2 else ZeroDivisionError
                raise RunnerCrashed("the runner died")
        found = InputObject(**job.input.model_dump(), etag="e", size_bytes=1)
        return Transcribed(accepted, found, 1.0, SILENCE)


class WatchedPublisher(Publisher):
    """The real publisher with the real ResultStore. No two deliveries have the same outputs."""

    worker: "Worker"

    async def _render(self, transcribed: Transcribed) -> list[OutputFile]:
        content = transcribed.accepted.claim.message.receipt_handle.encode()
        return [
            OutputFile("json", "transcript.json", "application/json", content),
            OutputFile("md", "transcript.md", "text/markdown", content),
        ]

    def _manifest(self, transcribed: Transcribed, delivery: LiveDelivery, stored: list[StoredOutput]) -> Manifest:
        """Run just before the manifest is written."""
        manifest = super()._manifest(transcribed, delivery, stored)
        if self.worker.machine.alive:
            self.worker.world.watch.acts(delivery.message, "publish")
        return manifest


@cache
def settings_of_workers() -> Settings:
    return some_settings(
        visibility_timeout_seconds=VISIBILITY_SECONDS,
        heartbeat_seconds=VISIBILITY_SECONDS / 4,
        max_crashed_deliveries=MAX_CRASHED_DELIVERIES,
        max_attempts=MAX_ATTEMPTS,
        retry_max_seconds=60,
        job_timeout_seconds=1200,
        status_seconds=30,
        cancel_poll_seconds=30,
        queue_timeout_seconds=15,  # the slowest network here takes 12 s per call
    )


class Worker:
    """A daemon on its own host: the real parts, wired as in the launcher."""

    def __init__(self, world: "DeliveryModel", name: str) -> None:
        self.world = world
        self.name = name
        limit = {"max_jobs_per_tenant": world.max_jobs_per_tenant}
        self.settings = settings_of_workers().model_copy(update={"worker_id": name, **limit})
        self.machine = Machine(world.clock, on_death=lambda: world.watch.fell_silent(self), pause=self.pause)
        self.stop, self.drain_seconds = asyncio.Event(), 0.0
        self.loop = world.clock.open_loop()
        self.life = self.loop.create_task(self._live())

    async def _live(self) -> None:
        queues = Queues([WatchedQueue(self)])
        storage, tracker = FakeStorage(self.world.objects, self.machine), JobTracker()
        results = WatchedResults(storage)
        status = StatusWriter(self.settings, storage, self.world.metrics, tracker)
        results.watch = self.world.watch
        publisher = WatchedPublisher(self.settings, results, self.world.metrics)
        publisher.worker = self
        processor = WatchedProcessor(
            self.settings,
            queues=queues,
            results=results,
            transcriber=ScriptedTranscriber(self),
            publisher=publisher,
            late_outputs=LateOutputs(storage, results),
            status=status,
            cancellation=Cancellation(self.settings, storage, status),
            events=EventSender(self.settings, clock=self.world.clock),
            metrics=self.world.metrics,
            tracker=tracker,
            tracer=Tracer(),
            brake=Brake(3, {}, self.world.metrics, self.world.clock),
            clock=self.world.clock,
        )
        processor.watch = self.world.watch
        limiter = ReceiveLimiter(self.settings.max_jobs_in_flight, batch_size=self.settings.batch_size)
        tenants = {
            queue.about.priority: TenantLimit(
                self.settings.max_jobs_per_tenant, queue, self.world.metrics, 10, self.world.clock
            )
            for queue in queues
        }
        poller = Poller(
            self.settings, queues, processor, self.world.metrics, lambda _: None, limiter, tenants, self.world.clock
        )
        polling, stopping = asyncio.create_task(poller.run()), asyncio.create_task(self.stop.wait())
        await asyncio.wait((polling, stopping), return_when=asyncio.FIRST_COMPLETED)
        poller.stop_receiving()
        await asyncio.wait((polling,))
        await poller.drain(self.drain_seconds, asyncio.Event())
        polling.result()

    def pause(self) -> None:
        self.loop.paused = True
        self.world.watch.fell_silent(self)

    def drain(self, seconds: float) -> None:
        self.drain_seconds = seconds
        self.stop.set()

    def check(self) -> None:
        """Assert that a running worker has not failed."""
        if self.machine.alive and self.life.done():
            self.life.result()
            assert self.stop.is_set(), "the poller ended unexpectedly"

    def bury(self) -> None:
        self.machine.die()
        self.world.clock.close_loop(self.loop)


class DeliveryModel(RuleBasedStateMachine):
    """Rules: events of producers, hosts, network, SQS and S3. Teardown: all faults end, and every message must reach
    its outcome."""

    tenant: str | None = None
    max_jobs_per_tenant = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualTime()
        self.monkeypatch = pytest.MonkeyPatch()
        self.clock.patch(self.monkeypatch)
        self.sqs = FakeSqs(self.clock)
        self.metrics = Metrics()  # shared by all workers: creating them takes longer than a worker runs
        self.watch = DeliveryMonitor(self.clock, self.sqs)
        self.objects: dict[str, StoredObject] = {}
        self.manifests: dict[str, str] = {}  # key → ETag
        self.completed: set[str] = set()  # keys of status.json
        self.jobs: dict[str, tuple[Kind, float]] = {}
        self.cancelled: set[str] = set()  # IDs of jobs whose cancellation was requested
        self.workers: list[Worker] = []
        self.hired = 0

    @initialize(kinds=st.lists(st.sampled_from(get_args(Kind)), min_size=1, max_size=3), seconds=SECONDS)
    def begin(self, kinds: list[Kind], seconds: float) -> None:
        """Start with at least one job and one worker."""
        for kind in kinds:
            self.send_job(kind, seconds)
        self.start_worker()
        self.advance(1)

    # --- producers ------------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(get_args(Kind)), seconds=SECONDS)
    def send_job(self, kind: Kind, seconds: float) -> None:
        job_id = f"{kind}-{len(self.jobs)}"
        self.jobs[job_id] = kind, seconds
        self.sqs.send(self._body(job_id), self.tenant)

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 9))
    def send_again(self, which: int) -> None:
        self.sqs.send(self._body(list(self.jobs)[which % len(self.jobs)]), self.tenant)

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 9), then=MOMENTS)
    def cancel_job(self, which: int, then: float) -> None:
        job_id = list(self.jobs)[which % len(self.jobs)]
        self.cancelled.add(job_id)
        self.objects[f"{PREFIX}{job_id}/{CANCEL_NAME}"] = StoredObject(b"", "e", {})
        self.advance(then)

    def _body(self, job_id: str) -> str:
        source = (
            {"bucket": "recordings", "key": "a.wav"} if self.jobs[job_id][0] != "invalid" else {"bucket": "recordings"}
        )
        return json.dumps({"version": 1, "job_id": job_id, "input": source})

    # --- hosts ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.workers) < MOST_WORKERS)
    @rule()
    def start_worker(self) -> None:
        self.hired += 1
        self.workers.append(Worker(self, f"w{self.hired}"))

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, MOST_WORKERS), then=MOMENTS)
    def crash(self, which: int, then: float) -> None:
        self._worker(which).machine.die()
        self.advance(then)

    @precondition(lambda self: self.workers)
    @rule(
        which=st.integers(0, MOST_WORKERS),
        calls=st.integers(1, 8),
        mishap=st.sampled_from(get_args(Mishap)),
        then=MOMENTS,
    )
    def strike_at_call(self, which: int, calls: int, mishap: Mishap, then: float) -> None:
        machine = self._worker(which).machine
        machine.calls_left, machine.mishap = calls, mishap
        self.advance(then)

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, MOST_WORKERS), seconds=st.sampled_from([0.0, 30.0, 300.0]), then=MOMENTS)
    def drain(self, which: int, seconds: float, then: float) -> None:
        self._worker(which).drain(seconds)
        self.advance(then)

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, MOST_WORKERS), paused=st.booleans(), then=MOMENTS)
    def stand_still(self, which: int, paused: bool, then: float) -> None:
        worker = self._worker(which)
        if paused:
            worker.pause()
        worker.loop.paused = paused
        self.advance(then)

    # --- network, SQS, S3 -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.workers)
    @rule(
        which=st.integers(0, MOST_WORKERS),
        operations=st.sets(
            st.sampled_from(["receive", "visibility", "delete", "dead_letter", "read", "write"]), min_size=1
        ),
        fault=st.sampled_from(get_args(Fault)),
        then=MOMENTS,
    )
    def break_network(self, which: int, operations: set[str], fault: Fault, then: float) -> None:
        self._worker(which).machine.faults.update(dict.fromkeys(operations, fault))
        self.advance(then)

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, MOST_WORKERS), seconds=st.sampled_from([0.02, 0.5, 3.0, 6.0]), then=MOMENTS)
    def slow_network(self, which: int, seconds: float, then: float) -> None:
        self._worker(which).machine.latency_seconds = seconds
        self.advance(then)

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, MOST_WORKERS))
    def repair_network(self, which: int) -> None:
        self._worker(which).machine.faults.clear()

    @rule(
        stale=st.sampled_from(["ignored", "error", "disturbs"]),
        duplicates=st.integers(0, 3),
        deletes=st.sampled_from(["work", "fail", "lost"]),
        then=MOMENTS,
    )
    def sqs_behaves(self, stale: Any, duplicates: int, deletes: Any, then: float) -> None:
        self.sqs.stale, self.sqs.duplicates, self.sqs.deletes = stale, duplicates, deletes
        self.advance(then)

    # --- time -----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([40.0, 100.0, 130.0, 700.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for worker in self.workers[:]:
            worker.check()
            if worker.life.done() or not worker.machine.alive:
                worker.bury()
                self.workers.remove(worker)

    @invariant()
    def nothing_is_broken(self) -> None:
        assert not self.watch.broken, "\n".join(self.watch.broken)
        for key, stored in self.objects.items():
            if key.endswith(MANIFEST_NAME):
                assert self.manifests.setdefault(key, stored.etag) == stored.etag, f"{key} was published twice"
        assert self.manifests.keys() <= self.objects.keys(), "a result was removed"
        for key in self.completed:
            assert self._state(key) == "completed", f"{key} was turned back"
        self.completed |= {key for key in self.objects if key.endswith(STATUS_NAME) and self._state(key) == "completed"}

    def _state(self, key: str) -> str:
        return JobStatus.model_validate_json(self.objects[key].body).state

    # --- the end --------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if not self.watch.broken:
                self._settle()
                self.nothing_is_broken()
                self._check_the_end()
        finally:
            for worker in self.workers:
                worker.bury()
            self.monkeypatch.undo()

    def _settle(self) -> None:
        """End all faults and keep the fleet running until every message is gone."""
        if any(worker.loop.paused for worker in self.workers):
            self.advance(VISIBILITY_SECONDS)  # paused workers resume after their leases have expired
        self.sqs.stale, self.sqs.duplicates, self.sqs.deletes = "ignored", 0, "work"
        for worker in self.workers:
            worker.loop.paused = False
            worker.machine.faults.clear()
            worker.machine.calls_left = 0
        limit = self.clock.now + 3600 * (2 + len(self.sqs.pending()))
        while self.sqs.pending():
            assert self.clock.now < limit, f"never reached an outcome: {self.sqs.pending()}"
            if not any(not worker.stop.is_set() for worker in self.workers):
                self.start_worker()
            self.advance(60)

    def _check_the_end(self) -> None:
        assert not self.watch.escaped, "an error escaped"
        published = {json.loads(self.objects[key].body)["job_id"] for key in self.manifests}
        for job_id in self.jobs:
            self._check_status(job_id, job_id in published)
        letters: dict[str, set[str]] = {}
        for request in self.sqs.dead:
            failure = json.loads(request["MessageAttributes"]["Failure"]["StringValue"])
            letters.setdefault(failure["original_message_id"], set()).add(failure["code"])
        for message in self.sqs.messages:
            job_id = json.loads(message.body)["job_id"]
            self._check_message(message, job_id, job_id in published, letters.get(message.message_id, set()))

    def _check_status(self, job_id: str, published: bool) -> None:
        """Assert that an end that the status shows did happen. One that it does not show may not have been written."""
        key = f"{PREFIX}{job_id}/{STATUS_NAME}"
        state = self._state(key) if key in self.objects else None
        assert published or state != "completed", f"{job_id} has no result"
        assert job_id in self.cancelled or state != "cancelled", f"{job_id} was not to be cancelled"

    def _check_message(self, message: StoredMessage, job_id: str, published: bool, codes: set[str]) -> None:
        kind = self.jobs[job_id][0]
        assert published or codes or job_id in self.cancelled, f"{message} was lost"
        wanted = DEAD_LETTER_CODES.get(kind)
        assert not (published and wanted), f"{message} cannot have a result"
        if message.disturbed:
            return  # SQS delivered it twice at once: one delivery may report it gone while another still works on it
        assert codes <= {wanted, "crash_suspect"}, f"{message} is a dead letter for {codes}"
        if "crash_suspect" in codes:
            assert self.watch.silent(message.message_id) >= MAX_CRASHED_DELIVERIES, f"{message} is not a crash suspect"
        if wanted in codes and kind in ("failing", "faulty"):
            assert self.watch.failures[message.message_id] >= MAX_ATTEMPTS, f"{message} had attempts left"

    def _worker(self, which: int) -> Worker:
        return self.workers[which % len(self.workers)]


@pytest.fixture
def _stopped_receiving() -> Iterator[None]:
    """Discard the logs: hours of simulated time are not readable."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("_stopped_receiving")
def test_every_delivery_ends_in_exactly_one_outcome() -> None:
    run_state_machine_as_test(
        DeliveryModel,
        settings=settings(stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )


class OneTenantModel(DeliveryModel):
    """The same guarantees, while each worker may work on one message only and returns the others."""

    tenant = "acme"
    max_jobs_per_tenant = 1


@pytest.mark.usefixtures("_stopped_receiving")
def test_every_message_of_a_tenant_at_its_limit_ends_in_exactly_one_outcome() -> None:
    run_state_machine_as_test(
        OneTenantModel,
        settings=settings(stateful_step_count=25, max_examples=50, suppress_health_check=list(HealthCheck)),
    )


# --- scenarios that the search found once or finds rarely ------------------------------------------------------------


@pytest.fixture
def model(_stopped_receiving: None) -> Iterator[DeliveryModel]:
    """The model, driven by the test. At the end its guarantees are checked as after a search."""
    model = DeliveryModel()
    yield model
    model.teardown()
    model.nothing_is_broken()


def test_worker_paused_beyond_its_lease_publishes_nothing(model: DeliveryModel) -> None:
    model.begin(["fine"], 50.0)
    model.advance(48)
    model.strike_at_call(0, 2, "pauses_after", then=130.0)  # while the last output is being sent
    assert model.workers[0].loop.paused
    model.start_worker()
    model.stand_still(0, False, then=10.0)


def test_delivery_whose_handle_sqs_refuses_ends_without_its_message(model: DeliveryModel) -> None:
    model.begin(["failing"], 50.0)
    model.advance(44)
    model.sqs_behaves("error", 1, "work", then=0.0)  # a second delivery of the message
    model.start_worker()
    model.advance(10)
    assert len(model.sqs.dead) == 1


def test_cancelled_job_has_no_result_and_a_later_message_runs(model: DeliveryModel) -> None:
    model.begin(["fine"], 200.0)
    model.advance(40)
    model.cancel_job(0, 60.0)
    assert not model.sqs.pending()
    assert not model.manifests
    key = f"{PREFIX}fine-0/"
    assert {name.removeprefix(key) for name in model.objects} == {STATUS_NAME}, "neither request nor checkpoints remain"
    assert model._state(key + STATUS_NAME) == "cancelled"
    model.send_again(0)
    model.advance(700)
    model.nothing_is_broken()
    assert model._state(key + STATUS_NAME) == "completed"


def test_waiting_job_is_cancelled_when_it_is_received(model: DeliveryModel) -> None:
    model.send_job("fine", 200.0)
    model.cancel_job(0, 0.0)
    model.start_worker()
    model.advance(40)
    assert not model.sqs.pending()
    assert model._state(f"{PREFIX}fine-0/{STATUS_NAME}") == "cancelled"


def test_cancelled_message_that_could_not_be_deleted_stays_cancelled(model: DeliveryModel) -> None:
    model.begin(["fine"], 200.0)
    model.sqs_behaves("ignored", 0, "lost", then=0.0)  # accepted, but the message is delivered again
    model.cancel_job(0, 60.0)
    assert model.sqs.pending()
    model.sqs_behaves("ignored", 0, "work", then=130.0)
    assert not model.sqs.pending()
    assert not model.manifests


def test_retry_with_a_lost_response_is_not_repeated_on_another_workers_lease(model: DeliveryModel) -> None:
    model.begin(["failing"], 50.0)
    model.start_worker()
    model.break_network(0, {"visibility"}, "deaf", then=100.0)


def test_writes_repeated_by_the_client_do_not_make_a_crash_suspect(model: DeliveryModel) -> None:
    model.send_job("fine", 200.0)
    for _ in range(MAX_CRASHED_DELIVERIES - 1):
        model.start_worker()
        model.break_network(0, {"write"}, "repeated", then=0.16)  # while the start record is being sent
        model.repair_network(0)
        model.advance(5)
        model.crash(0, then=130.0)


def test_interruptions_right_after_the_start_do_not_make_a_crash_suspect(model: DeliveryModel) -> None:
    for _ in range(2):  # as many as a worker holds; otherwise the drain waits for a receive first
        model.send_job("fine", 200.0)
    for seconds in (
        27.0,
        39.0,
        39.0,
    ):  # while the start record is being sent; from the second delivery on it is read first
        model.start_worker()
        model.slow_network(0, 6.0, then=seconds)
        model.drain(0, 0.0, then=130.0)


def test_one_of_two_simultaneous_publications_wins(model: DeliveryModel) -> None:
    model.begin(["fine"], 50.0)
    model.sqs_behaves("ignored", 1, "work", then=0.0)
    model.start_worker()
    model.advance(47)
    model.strike_at_call(0, 2, "pauses_after", then=25.0)
    assert model.workers[0].loop.paused
    model.nothing_is_broken()  # checks the manifest that must stay
    model.stand_still(0, False, then=5.0)
    assert sum("publish" in account.calls for account in model.watch.accounts.values()) == 2


def test_foreign_timeout_is_retried_as_a_failure(model: DeliveryModel) -> None:
    model.begin(["faulty"], 1.0)
    model.advance(700)
    (letter,) = model.sqs.dead
    failure = json.loads(letter["MessageAttributes"]["Failure"]["StringValue"])
    assert (failure["code"], failure["attempt"]) == ("internal_error", MAX_ATTEMPTS)


def test_suspect_that_could_not_be_deleted_has_used_no_attempt(model: DeliveryModel) -> None:
    model.begin(["failing"], 200.0)
    model.crash(0, then=0.0)
    model.sqs_behaves("ignored", 3, "fail", then=0.0)  # three more concurrent deliveries
    for _ in range(3):
        model.start_worker()
    model.advance(2)
    assert len(model.sqs.dead) == 1
    model.drain(0, 0.0, then=25.0)  # after its receive has ended
    model.drain(0, 0.0, then=130.0)  # now at most two deliveries look crashed, and the message is delivered again
