"""Metrics by tenant. Part of metrics.py.

A tenant is text from a message, so it becomes a label only if the operator lists it.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from daemon.tenant_settings import NO_TENANT, OTHER_TENANT

# Fewer than for all jobs, because each tenant has its own series.
WAIT_BUCKETS = (1, 10, 60, 300, 600, 1800, 3600, 14400)
OUTCOMES = ("published", "retried", "released", "dead_lettered", "cancelled", "abandoned", "unsettled")


class TenantMetrics:
    """Every metric with the label `tenant`: a listed tenant, `other`, or `none` for a message without a group."""

    def __init__(self, registry: CollectorRegistry, prefix: str, listed: tuple[str, ...]) -> None:
        self._listed = frozenset(listed)
        self.deliveries = Counter(
            f"{prefix}tenant_deliveries",
            "Deliveries by tenant and outcome, as in `transcriptd_deliveries_total`. Here and in the other metrics of tenants, the "
            "tenant is one of TRANSCRIPTD_METRICS_TENANTS, or other, or none if the message has no MessageGroupId.",
            ("tenant", "outcome"),
            registry=registry,
        )
        self.audio_seconds = Counter(
            f"{prefix}tenant_audio_seconds",
            "Seconds of audio in published transcripts, by tenant; channels that are split count each, as in the manifest's usage.",
            ("tenant",),
            registry=registry,
        )
        self.device_seconds = Counter(
            f"{prefix}tenant_device_seconds",
            "Seconds that the stages of published jobs had the device, by tenant, as in the manifest's usage.",
            ("tenant",),
            registry=registry,
        )
        self.queue_wait_seconds = Histogram(
            f"{prefix}tenant_queue_wait_seconds",
            "Seconds from the send of a message to the start of its job, by tenant; includes the time in which the tenant was at "
            "TRANSCRIPTD_MAX_JOBS_PER_TENANT. Jobs that an earlier delivery started are not counted.",
            ("tenant",),
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self.jobs_in_flight = Gauge(
            f"{prefix}tenant_jobs_in_flight",
            "Messages that the daemon holds, by tenant.",
            ("tenant",),
            registry=registry,
        )
        self.messages_returned = Counter(
            f"{prefix}tenant_messages_returned",
            "Messages returned to the queue because the daemon holds TRANSCRIPTD_MAX_JOBS_PER_TENANT others of their tenant.",
            ("tenant",),
            registry=registry,
        )
        for tenant in (*listed, OTHER_TENANT, NO_TENANT):
            for metric in (self.audio_seconds, self.device_seconds, self.queue_wait_seconds, self.jobs_in_flight):
                metric.labels(tenant)
            self.messages_returned.labels(tenant)
            for outcome in OUTCOMES:
                self.deliveries.labels(tenant, outcome)

    def label(self, tenant: str | None) -> str:
        """Return the label value of a tenant."""
        if tenant is None:
            return NO_TENANT
        return tenant if tenant in self._listed else OTHER_TENANT
