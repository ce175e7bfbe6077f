"""Tenants: does each one get its share, and what does it use. Tenants that TRANSCRIPTD_METRICS_TENANTS does not list are `other`."""

from deploy.monitoring.dashboards import frame
from deploy.monitoring.dashboards.frame import IN_ENVIRONMENT, runbook
from deploy.monitoring.dashboards.panels import GREEN, RED, YELLOW, Column, Json, Query, Steps, graph, row, table

T = f'{IN_ENVIRONMENT}, tenant=~"$tenant"'
PUBLISHED, FAILED = ', outcome="published"', ', outcome=~"retried|dead_lettered|unsettled"'
LATE_SECONDS = 600  # the objective of rules/recording.yml
LATE = Steps(GREEN, ((LATE_SECONDS / 2, YELLOW), (LATE_SECONDS, RED)))


def dashboard() -> Json:
    return frame.dashboard(
        frame.TENANTS,
        "transcriptd / Tenants",
        "Whether each tenant gets its share, and what it uses.",
        [
            row("Does each tenant get its share?"),
            _tenants(),
            *_share(),
            row("What does each tenant get and use?"),
            *_use(),
        ],
        by_instance=False,
        by_tenant=True,
    )


def _grown(metric: str, select: str = "") -> str:
    return f"sum by (tenant) (increase(transcriptd_tenant_{metric}{{{T}{select}}}[$__range]))"


def _rate(metric: str, select: str = "", by: str = "tenant") -> str:
    return f"sum by ({by}) (rate(transcriptd_tenant_{metric}{{{T}{select}}}[$__rate_interval]))"


def _tenants() -> Json:
    wait = f"{_grown('queue_wait_seconds_sum')} / {_grown('queue_wait_seconds_count')} >= 0"
    return table(
        "Tenants",
        "One line per tenant: jobs in progress now, everything else in the selected time range. One tenant holds almost all "
        "places and the others wait: limit it with TRANSCRIPTD_MAX_JOBS_PER_TENANT.",
        [
            f"sum by (tenant) (transcriptd_tenant_jobs_in_flight{{{T}}})",
            wait,
            f"round({_grown('deliveries_total', PUBLISHED)})",
            f"round({_grown('deliveries_total', FAILED)})",
            f"{_grown('audio_seconds_total')} / 3600",
            f"{_grown('device_seconds_total')} / 3600",
            f"round({_grown('messages_returned_total')})",
        ],
        [
            Column("tenant", "Tenant"),
            Column("Value #A", "In progress", "short", decimals=0, width=110),
            Column("Value #B", "Mean wait", "s", LATE, decimals=0, width=110),
            Column("Value #C", "Published", "short", decimals=0, width=110),
            Column("Value #D", "Failed deliveries", "short", Steps(GREEN, ((1, YELLOW),)), decimals=0, width=140),
            Column("Value #E", "Audio hours", "short", decimals=1, width=110),
            Column("Value #F", "Device hours", "short", decimals=2, width=110),
            Column("Value #G", "Returned at the limit", "short", decimals=0, width=160),
        ],
        sort_by="Device hours",
        descending=True,
        width=24,
        height=8,
    )


def _share() -> list[Json]:
    late = runbook("TranscriptdQueueWaitOverSlo")
    return [
        graph(
            "Jobs in progress",
            "Messages that the fleet holds, by tenant. A tenant at TRANSCRIPTD_MAX_JOBS_PER_TENANT on each instance stays level.",
            Query(f"sum by (tenant) (transcriptd_tenant_jobs_in_flight{{{T}}})", "{{tenant}}"),
            unit="short",
            decimals=0,
            stacked=True,
            links=[late],
        ),
        graph(
            "Wait until the start, p95",
            "From the send of a message to the start of its job. High for one tenant: its own backlog. High for all while one "
            "holds the places: limit that tenant. The line is the objective.",
            Query(
                f"histogram_quantile(0.95, {_rate('queue_wait_seconds_bucket', by='tenant, le')}) >= 0", "{{tenant}}"
            ),
            unit="s",
            steps=Steps(GREEN, ((LATE_SECONDS, RED),), line=True),
            links=[late],
        ),
        graph(
            "Returned at the limit, per minute",
            "Messages of a tenant at its limit that instances returned to the queue. Normal while a tenant has a backlog, up to "
            "120 per instance.",
            Query(f"60 * {_rate('messages_returned_total')}", "{{tenant}}"),
            unit="short",
            links=[late],
        ),
    ]


def _use() -> list[Json]:
    return [
        graph(
            "Published, per minute",
            "Results by tenant, duplicates included.",
            Query(f"60 * {_rate('deliveries_total', PUBLISHED)}", "{{tenant}}"),
            unit="short",
            stacked=True,
            width=6,
        ),
        graph(
            "Failed, per minute",
            "Deliveries that were retried, dead-lettered or unsettled, by tenant. Of one tenant only: its recordings or its messages; "
            "the job pipeline has the reasons.",
            Query(f"60 * {_rate('deliveries_total', FAILED)}", "{{tenant}}"),
            unit="short",
            stacked=True,
            links=[runbook("TranscriptdJobFailures")],
            width=6,
        ),
        graph(
            "Hours of audio per hour",
            "Audio in published transcripts per wall-clock hour, by tenant.",
            Query(_rate("audio_seconds_total"), "{{tenant}}"),
            unit="short",
            stacked=True,
            width=6,
        ),
        graph(
            "Devices in use",
            "Device seconds of published jobs per second, by tenant, as in the manifest's usage. A job counts when it ends.",
            Query(_rate("device_seconds_total"), "{{tenant}}"),
            unit="short",
            stacked=True,
            width=6,
        ),
    ]
