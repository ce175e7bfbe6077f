"""Every Prometheus metric. docs/metrics.md is generated from this module, and a test fails if they differ.

The poller process owns the only registry; measurements of the runner arrive as messages. Label values are bounded sets:
never an ID, a key or a text from a message. Series with known label values are created at start-up, because `rate()`
misses the first event of a series that is created by it.
"""

from itertools import chain, product
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from daemon.errors import ConfigError, OnFailure, all_errors
from daemon.protocol.events import STAGES as RUNNER_STAGES
from daemon.schema.catalog import LANGUAGES
from daemon.schema.notifications import Ignored
from daemon.schema.options import Format
from daemon.telemetry.machine_metrics import MachineMetrics
from daemon.telemetry.tenant_metrics import TenantMetrics

PREFIX = "transcriptd_"

JOB_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600)
STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
SIZE_BUCKETS = tuple(float(4**power * 1024) for power in range(1, 13))
FACTOR_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
MARGIN_BUCKETS = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 240, 600)
RECEIVES_BUCKETS = (1, 2, 3, 4, 5, 7, 10, 20, 50)
RATIO_BUCKETS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)
LOGPROB_BUCKETS = (-1.5, -1.2, -1, -0.8, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0)  # Whisper decodes again below -1
OUTBOX_AGE_BUCKETS = (30, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

# The trace of an observation, if it is recorded; exposed only in the OpenMetrics format.
Exemplar = dict[str, str] | None

# Known label values.
OUTCOMES = {
    OnFailure.RETRY: ("retried", "dead_lettered"),
    OnFailure.RELEASE: ("released",),
    OnFailure.ABANDON: ("abandoned",),
    OnFailure.DEAD_LETTER: ("dead_lettered",),
    OnFailure.CANCEL: ("cancelled",),
}
STAGES = ("download", "decode", "wait", *RUNNER_STAGES, "publish")
RUNNER_EXIT_REASONS = tuple(
    "exit signal stalled cancel_ignored device_fault protocol setup unwatched recycled leak".split()
)
OUTBOX_RESULTS = tuple("stored deferred delivered gone exhausted refused known".split())
UNUSABLE_ENTRIES = ("malformed", "untrusted")
INPUT_CHECKSUMS = tuple("CRC32 SHA1 SHA256 CRC64NVME CRC32C none".split())
RESOURCES = ("storage", "output", "queue", "dead_letter_queue", "outbox")
SINKS = ("webhook", "event_bus")
EVENTS = ("job.started", "job.progress", "job.completed", "job.failed", "job.cancelled")


class Metrics:
    """The metrics of one daemon. Attributes have the names of the metrics, without prefix and `_total`."""

    def __init__(self, tenants: tuple[str, ...] = ()) -> None:
        """`tenants` are those that may be labels."""
        registry = self.registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(PREFIX + name, meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(PREFIX + name, meaning, labels, buckets=buckets, registry=registry)

        # Is the queue moving?
        self.queue_messages = gauge(
            "queue_messages",
            "SQS's count of messages, by queue (its name in TRANSCRIPTD_QUEUE_URL, jobs if it has none; or outbox), kind (jobs, "
            "dead_letter, outbox) and state (visible, in_flight, delayed). Polled every minute; absent while SQS does not respond. "
            "Every daemon on a queue reports the same value: aggregate with max.",
            "queue",
            "kind",
            "state",
        )
        self.queue_depth_polls = counter(
            "queue_depth_polls",
            "Polls of the queue depth, by queue, kind and result: ok, error.",
            "queue",
            "kind",
            "result",
        )
        self.receive_calls = counter(
            "receive_calls", "Receive calls by queue and result: messages, empty, error.", "queue", "result"
        )
        self.messages_received = counter("messages_received", "Messages received, by queue.", "queue")
        self.last_successful_poll_timestamp_seconds = gauge(
            "last_successful_poll_timestamp_seconds",
            "Unix time of the last successful receive, with or without messages.",
        )
        self.poll_stalled_seconds = gauge(
            "poll_stalled_seconds",
            "Seconds for which a receive has been due without success, by queue; 0 while there is no capacity, receiving is "
            "paused, or a more urgent queue has messages.",
            "queue",
        )
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds",
            "Seconds from the send of a message to its first receive, by queue.",
            JOB_BUCKETS,
            "queue",
        )
        self.last_queue_wait_seconds = gauge(
            "last_queue_wait_seconds", "Queue wait of the most recent first-time delivery, by queue.", "queue"
        )
        self.clock_skew_seconds = gauge(
            "clock_skew_seconds",
            "Local clock minus SQS's clock, from the Date header of its last response; accurate to a second plus the network delay.",
        )

        # Is work healthy?
        self.deliveries = counter(
            "deliveries",
            "Deliveries by outcome (published, ignored, retried, released, dead_lettered, cancelled, abandoned, or unsettled if "
            "the outcome could not be carried out) and reason: an error code, published, rendered (outputs were added to an earlier "
            "result), duplicate, or why a notification is no job (test_event, other_event, empty_object, own_object).",
            "outcome",
            "reason",
        )
        self.message_receive_count = histogram(
            "message_receive_count",
            "SQS's receive count of each received message, this receive included; interruptions count.",
            RECEIVES_BUCKETS,
        )
        self.jobs_in_flight = gauge("jobs_in_flight", "Messages that the daemon holds, by queue.", "queue")
        self.receive_capacity = gauge(
            "receive_capacity",
            "Number of further messages that the runners can use, by queue; at 0 the daemon does not receive from it.",
            "queue",
        )
        self.outcome_call_failures = counter(
            "outcome_call_failures",
            "Outcome calls that failed until the lease ended, by outcome; the message is redelivered.",
            "outcome",
        )
        self.brake_engaged = gauge(
            "brake_engaged",
            "1 while receiving from a queue is stopped because a resource of the deployment fails for every job of it: storage, "
            "output, queue, dead_letter_queue, outbox.",
            "queue",
            "resource",
        )
        self.checkpoints = counter(
            "checkpoints", "Checkpoints by result: kept, restored, failed (could not be stored).", "result"
        )
        self.status_writes = counter(
            "status_writes",
            "Writes of status.json by result: written, superseded (a later one is there), failed.",
            "result",
        )

        self.downloads_proved = counter(
            "downloads_proved",
            "Recordings downloaded completely, by the S3 checksum that proved their bytes; none: S3 has no checksum of the whole "
            "object, and the sizes were checked alone.",
            "checksum",
        )
        self.download_parts_repeated = counter(
            "download_parts_repeated",
            "Parts of recordings that were requested again because the answer broke off, was too short or was another part.",
        )

        # Does each tenant get its share?
        self.tenants = TenantMetrics(registry, PREFIX, tenants)

        # Is the output right?
        self.warnings = counter("warnings", "Degradations in published transcripts, by warning code.", "code")
        self.redactions = counter(
            "redactions", "Personal data and profane words removed from published transcripts, by kind.", "kind"
        )
        self.transcripts = counter(
            "transcripts",
            "Published transcripts by language: a Whisper language code, none (no speech) or other.",
            "language",
        )
        self.late_outputs = counter(
            "late_outputs", "Outputs added to finished jobs from their stored transcripts, by format.", "format"
        )
        self.results_with_kept_words = counter(
            "results_with_kept_words", "Results with the words of earlier jobs, by work: diarize, redact.", "work"
        )
        self.transcript_avg_logprob = histogram(
            "transcript_avg_logprob",
            "Mean log-probability of Whisper's tokens in a published transcript, weighted by segment length; closer to 0 is more "
            "confident. Negative values allow no `_sum` and, in OpenMetrics, no `_count`: use the bucket `+Inf`.",
            LOGPROB_BUCKETS,
        )
        self.asr_chunks = counter(
            "asr_chunks",
            "Chunks that Whisper decoded, by result of the filters: kept; rejected (voice activity detection found speech, but the "
            "text was dropped); rescan_rejected (text from rescanning a gap without detected speech, dropped).",
            "result",
        )

        # Is it fast?
        self.job_duration_seconds = histogram(
            "job_duration_seconds", "Seconds from receive to outcome, by outcome.", JOB_BUCKETS, "outcome"
        )
        self.stage_duration_seconds = histogram(
            "stage_duration_seconds",
            "Duration of a stage: download, decode, wait (for the device and other jobs on it), vad, asr, align, diarize, publish.",
            STAGE_BUCKETS,
            "stage",
        )
        self.audio_seconds = counter("audio_seconds", "Seconds of audio in published transcripts.")
        self.input_bytes = histogram("input_bytes", "Size of input objects.", SIZE_BUCKETS)
        self.real_time_factor = histogram(
            "real_time_factor",
            "Seconds of work in the runner's stages per second of a job's audio; 0.05 is 20 times real time. Jobs and stages run in "
            "parallel, so the throughput of the device is higher.",
            FACTOR_BUCKETS,
        )

        self.asr_batch_fill_ratio = histogram(
            "asr_batch_fill_ratio",
            "Number of chunks in a decoded batch, as a share of the batch size.",
            RATIO_BUCKETS,
        )

        # Is the lease safe?
        self.heartbeats = counter(
            "heartbeats",
            "Lease extensions by result: extended, failed, gone (SQS no longer has the message).",
            "result",
        )
        self.lease_margin_seconds = histogram(
            "lease_margin_seconds", "Seconds left on the lease when an extension succeeded.", MARGIN_BUCKETS
        )
        self.leases_lost = counter(
            "leases_lost", "Leases that ended or could no longer be proved during work on the job."
        )

        # Are the runners healthy? Devices are named as in the setting `devices`.
        self.runner_state = gauge(
            "runner_state",
            "1 for the current state of a device's runner: new, starting, ready, busy, defunct (permanently out of service).",
            "device",
            "state",
        )
        self.runner_restarts = counter(
            "runner_restarts",
            "Runner processes replaced, by reason: exit, signal, stalled, cancel_ignored, device_fault, protocol, setup, "
            "unwatched, recycled, leak.",
            "device",
            "reason",
        )
        self.runner_memory_bytes = gauge(
            "runner_memory_bytes",
            "Memory of the runner: host (resident, sampled) and device (of all processes, measured after each job).",
            "device",
            "where",
        )
        self.audio_in_flight_seconds = gauge(
            "audio_in_flight_seconds",
            "Seconds of audio of the jobs in the runners, summed over channels; host memory grows with it. Only a single job may "
            "exceed TRANSCRIPTD_MAX_AUDIO_IN_FLIGHT_SECONDS.",
        )
        self.jobs_waiting = gauge(
            "jobs_waiting",
            "Staged jobs waiting for runner memory or exclusive use; receiving pauses while above 0.",
        )
        self.runner_busy_seconds = counter(
            "runner_busy_seconds",
            "Seconds in which the runner had a job; its rate is the utilization of the device.",
            "device",
        )
        self.model_load_seconds = gauge(
            "model_load_seconds", "Seconds to load and warm up the runner's models.", "device"
        )
        self.runner = Info(
            PREFIX + "runner",
            "Device name, compute type and models of the runner.",
            ("device",),
            registry=registry,
        )
        self.decoder_fork_server_starts = counter(
            "decoder_fork_server_starts",
            "Starts of the process that forks media decoders: one with the daemon, and one after each decoder that was killed by a "
            "signal, for example because a file crashed FFmpeg.",
        )

        self.decoder_sandbox_layer = gauge(
            "decoder_sandbox_layer",
            "1 if decoders and runners are confined by this layer of their sandbox: Landlock, seccomp. 0 is possible only with "
            "TRANSCRIPTD_ALLOW_WEAK_SANDBOX.",
            "layer",
        )

        # Are receivers notified?
        self.event_attempts = counter(
            "event_attempts",
            "Attempts to send an event by sink (webhook, event_bus), event and result: delivered, retried, failed, refused.",
            "sink",
            "event",
            "result",
        )
        self.event_attempt_duration_seconds = histogram(
            "event_attempt_duration_seconds",
            "Duration of an attempt to send an event, by sink and event.",
            STAGE_BUCKETS,
            "sink",
            "event",
        )
        self.outbox_events = counter(
            "outbox_events",
            "Final events in the outbox by sink (unknown if the entry cannot be used) and result: stored, deferred (not due, or "
            "failed), delivered, gone, exhausted, refused, malformed, untrusted (no seal of this webhook secret), known (already "
            "delivered by one of the first attempts).",
            "sink",
            "result",
        )
        self.outbox_event_age_seconds = histogram(
            "outbox_event_age_seconds",
            "Seconds from an event's first attempt to its receive from the outbox.",
            OUTBOX_AGE_BUCKETS,
        )

        # Is the machine healthy, will it be interrupted, and what does it cost?
        self.machine = MachineMetrics(registry, PREFIX)

        # Is the daemon itself healthy?
        self.trace_spans = counter(
            "trace_spans",
            "Trace spans by result: exported, lost (not accepted by the collector). Zero if tracing is off.",
            "result",
        )
        self.background_task_failures = counter(
            "background_task_failures",
            "Failures of the daemon's background tasks, by task. Each is logged as `background task failed`, and the task is "
            "restarted after up to 20 s.",
            "task",
        )
        ProcessCollector(registry=registry)  # process_resident_memory_bytes and others, of the poller process

        self.build = Info(PREFIX + "build", "Version of transcriptd.", registry=registry)

        self._initialize_series()

    def _initialize_series(self) -> None:
        for result in ("extended", "failed", "gone"):
            self.heartbeats.labels(result)
        for result in ("kept", "restored", "failed"):
            self.checkpoints.labels(result)
        for result in ("written", "superseded", "failed"):
            self.status_writes.labels(result)
        for checksum in INPUT_CHECKSUMS:
            self.downloads_proved.labels(checksum)
        for result in ("kept", "rejected", "rescan_rejected"):
            self.asr_chunks.labels(result)
        for event in EVENTS:
            for sink, result in product(SINKS, ("delivered", "retried", "failed", "refused")):
                self.event_attempts.labels(sink, event, result)
        for result in ("exported", "lost"):
            self.trace_spans.labels(result)
        for sink, result in product(SINKS, OUTBOX_RESULTS):
            self.outbox_events.labels(sink, result)
        for result in UNUSABLE_ENTRIES:
            self.outbox_events.labels("unknown", result)
        for name in get_args(Format):
            self.late_outputs.labels(name)
        for work in ("diarize", "redact"):
            self.results_with_kept_words.labels(work)
        for reason in ("published", "rendered", "duplicate"):
            self.deliveries.labels("published", reason)
        for ignored in Ignored:
            self.deliveries.labels("ignored", ignored.value)
        for error in set(all_errors()) - {ConfigError}:  # it only occurs at start-up
            for outcome in (*OUTCOMES[error.on_failure], "unsettled"):
                self.deliveries.labels(outcome, error.code)
        for outcome in ("published", "ignored", *chain.from_iterable(OUTCOMES.values())):
            self.outcome_call_failures.labels(outcome)
            self.job_duration_seconds.labels(outcome)
        self.job_duration_seconds.labels("unsettled")
        for stage in STAGES:
            self.stage_duration_seconds.labels(stage)

    def add_queue(self, queue: str) -> None:
        """Create the series of a job queue, with the value 0."""
        for result in ("messages", "empty", "error"):
            self.receive_calls.labels(queue, result)
        for resource in RESOURCES:
            self.brake_engaged.labels(queue, resource)
        for metric in (
            self.messages_received,
            self.queue_wait_seconds,
            self.last_queue_wait_seconds,
            self.poll_stalled_seconds,
            self.jobs_in_flight,
            self.receive_capacity,
        ):
            metric.labels(queue)

    def add_device(self, device: str) -> None:
        """Create the counters of a device's runner, with the value 0."""
        self.runner_busy_seconds.labels(device)
        for reason in RUNNER_EXIT_REASONS:
            self.runner_restarts.labels(device, reason)

    def observe_published(self, language: str | None, avg_logprob: float | None) -> None:
        """Count a published transcript; `avg_logprob` is None without speech."""
        self.transcripts.labels("none" if language is None else language if language in LANGUAGES else "other").inc()
        if avg_logprob is not None:
            self.transcript_avg_logprob.observe(avg_logprob)

    def observe_event(self, sink: str, event: str, result: str, seconds: float, exemplar: Exemplar = None) -> None:
        self.event_attempts.labels(sink, event, result).inc()
        self.event_attempt_duration_seconds.labels(sink, event).observe(seconds, exemplar)
