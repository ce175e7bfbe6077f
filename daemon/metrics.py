"""Every Prometheus metric, declared once. docs/metrics.md is generated from here and a test fails when they differ.

The poller process owns the one registry; what the runner measures arrives as messages. Labels are bounded sets: never
an id, a key or a text from a message.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

PREFIX = "transcriptd_"

JOB_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600)
STAGE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
SIZE_BUCKETS = tuple(float(4**power * 1024) for power in range(1, 13))
FACTOR_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5)
MARGIN_BUCKETS = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 240, 600)


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
        self.receives = counter("receives", "Receive calls by result: messages, empty, error.", "result")
        self.messages_received = counter("messages_received", "Messages received.")
        self.last_successful_poll_timestamp_seconds = gauge(
            "last_successful_poll_timestamp_seconds",
            "Unix time when a receive last succeeded, with or without messages.",
        )
        self.queue_wait_seconds = histogram(
            "queue_wait_seconds", "From the sending of a message to its first receive.", JOB_BUCKETS
        )

        # Is work healthy?
        self.jobs = counter(
            "jobs",
            "Deliveries by outcome (deleted, retried, released, dead_lettered, abandoned, unsettled) and reason: an error code, "
            "or published, or duplicate.",
            "outcome",
            "reason",
        )
        self.jobs_in_flight = gauge("jobs_in_flight", "Messages held now.")
        self.warnings = counter("warnings", "Degradations in published transcripts, by warning code.", "code")
        self.redactions = counter(
            "redactions", "Personal data and profane words taken out of published transcripts, by kind.", "kind"
        )
        self.settle_failures = counter(
            "settle_failures",
            "Outcome calls that failed until the lease ended, by outcome; the message comes back.",
            "outcome",
        )

        self.checkpoints = counter(
            "checkpoints", "Finished parts of jobs by result: kept, restored, failed (not kept).", "result"
        )

        # Is it fast?
        self.job_duration_seconds = histogram(
            "job_duration_seconds", "From receive to outcome, by outcome.", JOB_BUCKETS, "outcome"
        )
        self.stage_duration_seconds = histogram(
            "stage_duration_seconds",
            "Duration of a stage: download, decode, wait (for the device), vad, asr, align, diarize, publish.",
            STAGE_BUCKETS,
            "stage",
        )
        self.audio_seconds = counter("audio_seconds", "Seconds of audio in published transcripts.")
        self.input_bytes = histogram("input_bytes", "Size of input objects.", SIZE_BUCKETS)
        self.real_time_factor = histogram(
            "real_time_factor", "Runner seconds per audio second of a job; 0.05 is 20 times real time.", FACTOR_BUCKETS
        )

        # Is the lease safe?
        self.heartbeats = counter("heartbeats", "Lease extensions by result: extended, failed.", "result")
        self.lease_margin_seconds = histogram(
            "lease_margin_seconds", "Time left on the lease when an extension was accepted.", MARGIN_BUCKETS
        )
        self.leases_lost = counter("leases_lost", "Leases that ended, or could not be proved, while work went on.")

        # Is the runner well?
        self.runner_state = gauge(
            "runner_state", "1 for the state the runner is in: new, starting, ready, busy, defunct.", "state"
        )
        self.runner_restarts = counter(
            "runner_restarts",
            "Runner processes replaced, by reason: exit, signal, stalled, cancel_ignored, device_fault, protocol, setup, "
            "recycled, leak.",
            "reason",
        )
        self.runner_memory_bytes = gauge(
            "runner_memory_bytes", "Memory the runner holds: host (resident) and device (used by everyone).", "where"
        )
        self.model_load_seconds = gauge("model_load_seconds", "Time the runner took to load and warm up its models.")
        self.runner = Info(PREFIX + "runner", "Device, compute type and models of the runner.", registry=registry)

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

        # Is the instance going away?
        self.interruptions = counter(
            "interruptions", "Ends of the instance that were announced: spot, termination, rebalance.", "kind"
        )
        self.metadata_failures = counter("metadata_failures", "Rounds in which EC2's instance metadata did not answer.")

        self.build = Info(PREFIX + "build", "Version of transcriptd.", registry=registry)

    def observe_webhook(self, event: str, result: str, seconds: float) -> None:
        self.webhook_attempts.labels(event, result).inc()
        self.webhook_attempt_seconds.labels(event).observe(seconds)
