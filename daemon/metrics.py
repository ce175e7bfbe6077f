"""Every Prometheus metric, declared once. docs/metrics.md is generated from here and a test fails when they differ.

The poller process owns the one registry; what the runner measures arrives as messages. Labels are bounded sets: never
an id, a key or a text from a message. What a label may say is declared with it where that is known: a series that is
born with its first event hides that event from `rate()`.
"""

from collections.abc import Iterator
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, ProcessCollector
from prometheus_client.registry import Collector

from daemon.catalog import LANGUAGES
from daemon.errors import ConfigError, Fate, TranscriptdError, all_errors
from daemon.protocol import STAGES as RUNNER_STAGES

PREFIX = "transcriptd_"

JOB_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600)
STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
SIZE_BUCKETS = tuple(float(4**power * 1024) for power in range(1, 13))
FACTOR_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
MARGIN_BUCKETS = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 240, 600)
RECEIVES_BUCKETS = (1, 2, 3, 4, 5, 7, 10, 20, 50)
SHARE_BUCKETS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)
LOGPROB_BUCKETS = (-1.5, -1.2, -1, -0.8, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0)  # at -1 Whisper decodes again
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
OUTBOX_AGE_BUCKETS = (30, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

# The trace that an observation is of, where it is recorded; shown in OpenMetrics alone.
Exemplar = dict[str, str] | None

# What the labels may say.
OUTCOMES = {
    Fate.RETRY: ("retried", "dead_lettered"),
    Fate.RELEASE: ("released",),
    Fate.ABANDON: ("abandoned",),
    Fate.DEAD_LETTER: ("dead_lettered",),
}
STAGES = ("download", "decode", "wait", *RUNNER_STAGES, "publish")
RUNNER_ENDS = tuple("exit signal stalled cancel_ignored device_fault protocol setup recycled leak".split())
OUTBOX_RESULTS = tuple("stored deferred delivered gone exhausted refused malformed known".split())
WEBHOOK_EVENTS = ("job.started", "job.progress", "job.completed", "job.failed")


class OpenMetrics(Collector):
    """A registry as OpenMetrics has it, where a histogram without `_sum` has no `_count` either."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.type == "histogram" and not any(sample.name.endswith("_sum") for sample in family.samples):
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_count")]
            yield family


class Metrics:
    """The metrics of one daemon. Attributes are named as the metrics are, without prefix and `_total`."""

    def __init__(self) -> None:
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
            "Messages as SQS counts them, by queue (jobs, dead_letter, outbox) and state (visible, in_flight, delayed). "
            "Asked for every minute; absent while SQS does not answer. Every daemon on a queue reports the same: take the maximum.",
            "queue",
            "state",
        )
        self.queue_depth_polls = counter(
            "queue_depth_polls",
            "Times SQS was asked for those numbers, by queue and result: ok, error.",
            "queue",
            "result",
        )
        self.receives = counter("receives", "Receive calls by result: messages, empty, error.", "result")
        self.messages_received = counter("messages_received", "Messages received.")
        self.last_successful_poll_timestamp_seconds = gauge(
            "last_successful_poll_timestamp_seconds",
            "Unix time when a receive last succeeded, with or without messages.",
        )
        self.poll_stalled_seconds = gauge(
            "poll_stalled_seconds",
            "How long a receive has been due and none has succeeded; with no room for a message, or receiving paused, none is due.",
        )
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds", "From the sending of a message to its first receive.", JOB_BUCKETS
        )
        self.queue_last_wait_seconds = gauge(
            "queue_last_wait_seconds", "The queue wait of the message that was received for the first time last."
        )
        self.clock_skew_seconds = gauge(
            "clock_skew_seconds",
            "The local clock minus that of SQS, from the Date of its last answer; exact to a second and the answer's way.",
        )

        # Is work healthy?
        self.jobs = counter(
            "jobs",
            "Deliveries by outcome (deleted, retried, released, dead_lettered, abandoned, unsettled) and reason: an error code, "
            "or published, or duplicate.",
            "outcome",
            "reason",
        )
        self.message_receives = histogram(
            "message_receives",
            "How often SQS had handed out a message when it was received here, this time included; interruptions count.",
            RECEIVES_BUCKETS,
        )
        self.jobs_in_flight = gauge("jobs_in_flight", "Messages held now.")
        self.jobs_in_flight_room = gauge(
            "jobs_in_flight_room", "How many more the runner can use now; at 0 nothing is received."
        )
        self.settle_failures = counter(
            "settle_failures",
            "Outcome calls that failed until the lease ended, by outcome; the message comes back.",
            "outcome",
        )
        self.checkpoints = counter(
            "checkpoints", "Finished parts of jobs by result: kept, restored, failed (not kept).", "result"
        )

        # Is it right?
        self.warnings = counter("warnings", "Degradations in published transcripts, by warning code.", "code")
        self.redactions = counter(
            "redactions", "Personal data and profane words taken out of published transcripts, by kind.", "kind"
        )
        self.transcripts = counter(
            "transcripts",
            "Published transcripts by language: a code of Whisper's, none (no speech), other.",
            "language",
        )
        self.transcript_avg_logprob = histogram(
            "transcript_avg_logprob",
            "Mean log-probability of Whisper's tokens in a published transcript, by the segments' length; nearer 0 is surer. "
            "It has no `_sum`, which would fall, and so no `_count` in OpenMetrics: the bucket `+Inf` says the same.",
            LOGPROB_BUCKETS,
        )
        self.asr_chunks = counter(
            "asr_chunks",
            "Chunks that Whisper decoded, by what the gates made of them: heard; gated (speech detection had heard speech, "
            "it was left out); dismissed (a second hearing of what speech detection passed over, not believed).",
            "result",
        )

        # Is it fast?
        self.job_duration_seconds = histogram(
            "job_duration_seconds", "From receive to outcome, by outcome.", JOB_BUCKETS, "outcome"
        )
        self.stage_duration_seconds = histogram(
            "stage_duration_seconds",
            "Duration of a stage: download, decode, wait (for the device, and other jobs on it), vad, asr, align, diarize, publish.",
            STAGE_BUCKETS,
            "stage",
        )
        self.audio_seconds = counter("audio_seconds", "Seconds of audio in published transcripts.")
        self.input_bytes = histogram("input_bytes", "Size of input objects.", SIZE_BUCKETS)
        self.real_time_factor = histogram(
            "real_time_factor",
            "Seconds of work in the runner's stages per audio second of a job; 0.05 is 20 times real time. Jobs and stages are done side by side, so that the device gets through more.",
            FACTOR_BUCKETS,
        )

        self.asr_batch_fill_ratio = histogram(
            "asr_batch_fill_ratio",
            "Chunks in a batch that Whisper decoded, as a share of the batch size.",
            SHARE_BUCKETS,
        )

        # Is the lease safe?
        self.heartbeats = counter("heartbeats", "Lease extensions by result: extended, failed.", "result")
        self.lease_margin_seconds = histogram(
            "lease_margin_seconds", "Time left on the lease when an extension was accepted.", MARGIN_BUCKETS
        )
        self.leases_lost = counter("leases_lost", "Leases that ended, or could not be proved, while work went on.")

        # Are the runners well? A device is called as the setting `devices` calls it.
        self.runner_state = gauge(
            "runner_state",
            "1 for the state the runner of a device is in: new, starting, ready, busy, defunct (it is given up).",
            "device",
            "state",
        )
        self.runner_restarts = counter(
            "runner_restarts",
            "Runner processes replaced, by reason: exit, signal, stalled, cancel_ignored, device_fault, protocol, setup, "
            "recycled, leak.",
            "device",
            "reason",
        )
        self.runner_memory_bytes = gauge(
            "runner_memory_bytes",
            "Memory the runner holds: host (resident, sampled) and device (used by everyone, after each job).",
            "device",
            "where",
        )
        self.audio_in_flight_seconds = gauge(
            "audio_in_flight_seconds",
            "Audio of the jobs that the runner has now, all channels together; its memory grows with it. Not beyond "
            "TRANSCRIPTD_AUDIO_IN_FLIGHT_SECONDS, but for one job by itself.",
        )
        self.jobs_waiting = gauge(
            "jobs_waiting",
            "Staged jobs that the runner has no memory for now, or that wait for one which must be by itself; until there is none "
            "nothing is received.",
        )
        self.runner_busy_seconds = counter(
            "runner_busy_seconds",
            "Time in which the runner had a job; its rate is the busy share of the device.",
            "device",
        )
        self.model_load_seconds = gauge(
            "model_load_seconds", "Time the runner took to load and warm up its models.", "device"
        )
        self.runner = Info(
            PREFIX + "runner",
            "The device's own name, compute type and models of the runner.",
            ("device",),
            registry=registry,
        )
        self.decoder_fork_server_starts = counter(
            "decoder_fork_server_starts",
            "Starts of the process that forks media decoders: one with the daemon, and one after each decoder that died of a signal, "
            "as it does of a file that crashes FFmpeg.",
        )

        # Do the callers hear of it?
        self.webhook_attempts = counter(
            "webhook_attempts",
            "Webhook deliveries tried, by event and result: delivered, retried, failed, refused.",
            "event",
            "result",
        )
        self.webhook_attempt_seconds = histogram(
            "webhook_attempt_seconds", "Duration of a webhook attempt, by event.", STAGE_BUCKETS, "event"
        )
        self.webhook_outbox = counter(
            "webhook_outbox",
            "Final events in the webhook outbox by result: stored, deferred (not due, or failed), delivered, gone, exhausted, "
            "refused, malformed, known (delivered by a quick attempt meanwhile).",
            "result",
        )

        self.webhook_outbox_age_seconds = histogram(
            "webhook_outbox_age_seconds",
            "Age of an event, from its first attempt, when it is taken from the outbox.",
            OUTBOX_AGE_BUCKETS,
        )

        # Is the machine well? What NVML does not tell is absent, not zero.
        self.event_loop_lag_seconds = histogram(
            "event_loop_lag_seconds", "How late the poller's event loop ran what was due, sampled.", LAG_BUCKETS
        )
        self.scratch_free_bytes = gauge("scratch_free_bytes", "Room on the disk of the scratch directory.")
        self.scratch_size_bytes = gauge("scratch_size_bytes", "Size of that disk.")
        self.scratch_min_free_bytes = gauge(
            "scratch_min_free_bytes", "Below so much room nothing is received: TRANSCRIPTD_MIN_FREE_BYTES."
        )
        self.gpu_memory_used_bytes = gauge("gpu_memory_used_bytes", "Device memory in use, by everyone.", "gpu")
        self.gpu_memory_size_bytes = gauge("gpu_memory_size_bytes", "Size of the device's memory.", "gpu")
        self.gpu_utilisation_ratio = gauge(
            "gpu_utilisation_ratio", "Share of NVML's last sample period in which a kernel ran.", "gpu"
        )
        self.gpu_temperature_celsius = gauge("gpu_temperature_celsius", "Temperature of the GPU.", "gpu")
        self.gpu_xid_errors = counter(
            "gpu_xid_errors", "Errors that the driver reported of the GPU, by NVIDIA's Xid number.", "gpu", "xid"
        )
        self.gpu_query_failures = counter(
            "gpu_query_failures", "Queries of NVML that failed, for a GPU that answered before.", "gpu"
        )
        self.trace_spans = counter(
            "trace_spans",
            "Spans of traces by result: exported, lost (the collector did not take them). None where tracing is off.",
            "result",
        )
        ProcessCollector(registry=registry)  # process_resident_memory_bytes and its kin, of the poller process

        # Is the instance going away, and what does it cost?
        self.interruptions = counter(
            "interruptions", "Ends of the instance that were announced: spot, termination, rebalance.", "kind"
        )
        self.metadata_failures = counter("metadata_failures", "Rounds in which EC2's instance metadata did not answer.")

        self.instance_price_per_hour = gauge(
            "instance_price_per_hour",
            "What the instance costs an hour: TRANSCRIPTD_INSTANCE_PRICE_PER_HOUR; 0 is unknown.",
        )
        self.build = Info(PREFIX + "build", "Version of transcriptd.", registry=registry)

        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        for result in ("messages", "empty", "error"):
            self.receives.labels(result)
        for result in ("extended", "failed"):
            self.heartbeats.labels(result)
        for result in ("kept", "restored", "failed"):
            self.checkpoints.labels(result)
        for result in ("heard", "gated", "dismissed"):
            self.asr_chunks.labels(result)
        for kind in ("spot", "termination", "rebalance"):
            self.interruptions.labels(kind)
        for event in WEBHOOK_EVENTS:
            for result in ("delivered", "retried", "failed", "refused"):
                self.webhook_attempts.labels(event, result)
        for result in ("exported", "lost"):
            self.trace_spans.labels(result)
        for result in OUTBOX_RESULTS:
            self.webhook_outbox.labels(result)
        for reason in ("published", "duplicate"):
            self.jobs.labels("deleted", reason)
        self.jobs.labels("unsettled", TranscriptdError.code)
        for error in set(all_errors()) - {ConfigError}:  # it ends the start
            for outcome in OUTCOMES[error.fate]:
                self.jobs.labels(outcome, error.code)
        for outcome in ("deleted", *chain.from_iterable(OUTCOMES.values())):
            self.settle_failures.labels(outcome)
            self.job_duration_seconds.labels(outcome)
        self.job_duration_seconds.labels("unsettled")
        for stage in STAGES:
            self.stage_duration_seconds.labels(stage)

    def add_device(self, device: str) -> None:
        """What is counted of a device's runner begins at zero."""
        self.runner_busy_seconds.labels(device)
        for reason in RUNNER_ENDS:
            self.runner_restarts.labels(device, reason)

    def observe_published(self, language: str | None, avg_logprob: float | None) -> None:
        """A transcript was published; `avg_logprob` is None when nothing was said."""
        self.transcripts.labels("none" if language is None else language if language in LANGUAGES else "other").inc()
        if avg_logprob is not None:
            self.transcript_avg_logprob.observe(avg_logprob)

    def observe_webhook(self, event: str, result: str, seconds: float, exemplar: Exemplar = None) -> None:
        self.webhook_attempts.labels(event, result).inc()
        self.webhook_attempt_seconds.labels(event).observe(seconds, exemplar)
