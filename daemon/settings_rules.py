"""Rules that involve several settings, and rules for queue URLs. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from daemon.job_queues import (
    MAX_WEIGHT,
    dead_letters_are_wrong,
    job_queues,
    named,
    names_are_wrong,
    timeouts_are_wrong,
    weights_are_wrong,
)

# SQS ends a lease 12 h after the receive, regardless of extensions; a job must end well before.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
MAX_LEASE_SECONDS = 12 * 3600.0

# https://docs.aws.amazon.com/general/latest/gr/sqs-service.html, with VPC endpoints and the older form of the name
_SQS_HOST = re.compile(
    r"(?:.+\.)?sqs(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws)"
    r"|(?P<older>[a-z0-9-]+)\.queue\.amazonaws\.com(?:\.cn)?"
)


def queue_region(url: str | None) -> str | None:
    """Return the region that the URL of an SQS queue names, or None if the URL is not one of AWS."""
    try:
        found = _SQS_HOST.fullmatch(urlsplit(url or "").hostname or "")
    except ValueError:
        return None
    return (found["region"] or found["older"]) if found else None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that the settings in `names` must follow together."""

    names: tuple[str, ...]
    is_broken: Callable[[Any], object]
    message: str


def _is_fifo(url: str | None) -> bool:
    return (url or "").rstrip("/").endswith(".fifo")  # only the names of FIFO queues may have a dot


def _wrong_scheme(settings: Any) -> bool:
    allowed = ("https", "http") if settings.webhook_allow_http else ("https",)
    return settings.webhook_url is not None and settings.webhook_url.partition(":")[0].lower() not in allowed


def _urls(settings: Any, name: str) -> list[str]:
    return [url for _, url in named(getattr(settings, name))]


def _regions_differ(settings: Any) -> bool:
    regions = {queue_region(url) for name in ("queue_url", "dlq_url") for url in _urls(settings, name)}
    return len(regions - {None}) > 1


def _any_twice(settings: Any) -> bool:
    urls = [*_urls(settings, "queue_url"), *_urls(settings, "dlq_url")]
    return len(set(urls)) < len(urls)


def _shortest_lease_seconds(settings: Any) -> float:
    return min((queue.visibility_timeout_seconds for queue in job_queues(settings)), default=MAX_LEASE_SECONDS)


RULES = (
    Rule(
        ("heartbeat_seconds", "visibility_timeout_seconds"),
        lambda s: s.heartbeat_seconds > _shortest_lease_seconds(s) / 3,
        "heartbeat_seconds must be at most a third of visibility_timeout_seconds, so that two extensions may fail",
    ),
    Rule(
        ("receive_wait_time_seconds", "visibility_timeout_seconds"),
        lambda s: s.receive_wait_time_seconds >= _shortest_lease_seconds(s) / 2,
        "receive_wait_time_seconds must be less than half of visibility_timeout_seconds: the lease may have started when the receive did",
    ),
    Rule(
        ("poll_stall_seconds", "receive_wait_time_seconds", "queue_timeout_seconds", "queue_backoff_max_seconds"),
        lambda s: (
            s.poll_stall_seconds < s.receive_wait_time_seconds + s.queue_timeout_seconds + s.queue_backoff_max_seconds
        ),
        "poll_stall_seconds must be at least receive_wait_time_seconds + queue_timeout_seconds + "
        "queue_backoff_max_seconds, to allow for a receive and a backoff",
    ),
    Rule(
        ("job_timeout_seconds",),
        lambda s: s.job_timeout_seconds > MAX_LEASE_SECONDS - 1800,
        "job_timeout_seconds must be at most 11.5 h: SQS ends every lease after 12 h",
    ),
    Rule(
        ("autoscaling_group", "host"),
        lambda s: s.autoscaling_group is not None and s.host != "ec2",
        "autoscaling_group needs host=ec2: the instance ID comes from the instance metadata",
    ),
    Rule(
        ("launch_hook", "termination_hook", "idle_exit_seconds", "autoscaling_group"),
        lambda s: s.autoscaling_group is None and (s.launch_hook or s.termination_hook or s.idle_exit_seconds),
        "launch_hook, termination_hook and idle_exit_seconds need autoscaling_group",
    ),
    Rule(
        ("idle_exit_seconds", "receive_wait_time_seconds"),
        lambda s: 0 < s.idle_exit_seconds < 2 * s.receive_wait_time_seconds,
        "idle_exit_seconds must be at least two receive waits: one receive may be empty by chance",
    ),
    Rule(
        ("max_jobs_per_tenant", "max_jobs_in_flight"),
        lambda s: s.max_jobs_per_tenant >= s.max_jobs_in_flight,
        "max_jobs_per_tenant must be less than max_jobs_in_flight: otherwise one tenant fills the daemon",
    ),
    Rule(
        ("min_speakers", "max_speakers"),
        lambda s: s.min_speakers > s.max_speakers,
        "min_speakers must be at most max_speakers",
    ),
    Rule(
        ("queue_url",),
        names_are_wrong,
        "several queues need a name each, as in `interactive=https://… batch=https://…`: lower-case letters, digits, - and _; not `outbox`",
    ),
    Rule(
        ("dlq_url", "queue_url"),
        dead_letters_are_wrong,
        "dlq_url must name one dead-letter queue for each queue of queue_url, with the same names",
    ),
    Rule(
        ("queue_weights", "queue_url"),
        weights_are_wrong,
        f"queue_weights must have a number above 0, at most {MAX_WEIGHT:g}, for each queue, as in `interactive=3 batch=1`",
    ),
    Rule(
        ("queue_visibility_timeout_seconds", "queue_url"),
        lambda s: timeouts_are_wrong(s, MAX_LEASE_SECONDS),
        f"queue_visibility_timeout_seconds must have numbers from 1 to {MAX_LEASE_SECONDS:g} for queues of queue_url, as in `batch=600`",
    ),
    Rule(
        ("max_jobs_in_flight", "queue_url"),
        lambda s: s.max_jobs_in_flight < len(s.queue_url),
        "max_jobs_in_flight must be at least the number of queues: one place is kept for each queue that must not wait",
    ),
    Rule(
        ("queue_url", "dlq_url"),
        _any_twice,
        "queue_url and dlq_url must be different queues",
    ),
    Rule(
        ("outbox_url", "queue_url", "dlq_url"),
        lambda s: s.outbox_url in (*_urls(s, "queue_url"), *_urls(s, "dlq_url")),
        "outbox_url must differ from queue_url and dlq_url",
    ),
    *(
        Rule(
            (name,),
            lambda s, urls=urls: any(map(_is_fifo, urls(s))),  # type: ignore[misc]
            f"{name} is a FIFO queue; use a standard queue, because one failed job would block the others of its group",
        )
        for name, urls in (
            ("queue_url", lambda s: _urls(s, "queue_url")),
            ("dlq_url", lambda s: _urls(s, "dlq_url")),
            ("outbox_url", lambda s: [s.outbox_url]),
        )
    ),
    Rule(
        ("queue_url", "dlq_url"),
        _regions_differ,
        "queue_url and dlq_url must be in the same region",
    ),
    Rule(
        ("outbox_retry_schedule_seconds",),
        lambda s: any(later <= earlier for earlier, later in pairwise((0, *s.outbox_retry_schedule_seconds))),
        "outbox_retry_schedule_seconds must be positive and increasing",
    ),
    Rule(
        ("webhook_url", "webhook_hosts", "webhook_secret"),
        lambda s: (s.webhook_url is not None or s.webhook_hosts) and not s.webhook_secret,
        "WEBHOOK_URL and TRANSCRIPTD_WEBHOOK_HOSTS need WEBHOOK_SECRET: events are always signed",
    ),
    Rule(
        ("event_bus", "outbox_url", "webhook_secret"),
        lambda s: s.event_bus is not None and s.outbox_url is not None and not s.webhook_secret,
        "TRANSCRIPTD_EVENT_BUS with TRANSCRIPTD_OUTBOX_URL needs WEBHOOK_SECRET: the events in the outbox are sealed with it",
    ),
    Rule(
        ("webhook_url", "webhook_allow_http"),
        _wrong_scheme,
        "WEBHOOK_URL must be https (or set TRANSCRIPTD_WEBHOOK_ALLOW_HTTP=true in a closed network)",
    ),
)
