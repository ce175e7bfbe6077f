"""Delivery and DLQ: is anything lost, repeated or not reported; dead letters, leases, webhooks, SQS."""

from deploy.monitoring.dashboards import frame, reasons
from deploy.monitoring.dashboards.frame import IN_ENVIRONMENT as E
from deploy.monitoring.dashboards.frame import ON_INSTANCES as S
from deploy.monitoring.dashboards.frame import newly, runbook
from deploy.monitoring.dashboards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Json,
    Query,
    Steps,
    graph,
    row,
    stat,
    table,
)

DEPTH = f"deployment:transcriptd_queue_messages:max{{{E}, "
OLD_SECONDS, GIVEN_UP_SECONDS = 36_000, 86_400  # rules/alerts.yml; the end of TRANSCRIPTD_OUTBOX_RETRY_SCHEDULE_SECONDS

RESULT_COLOURS = (("delivered", GREEN), ("retried", YELLOW), ("failed", ORANGE), ("refused", RED))


def dashboard() -> Json:
    return frame.dashboard(
        frame.DELIVERY,
        "transcriptd / Delivery and DLQ",
        "Is anything lost, repeated or not reported: dead letters, leases, webhooks, SQS.",
        [
            row("Is anything lost, repeated or not reported?"),
            *_now(),
            row("Why are jobs dead-lettered?"),
            *_dead_letters(),
            row("Are the leases safe?"),
            *_leases(),
            row("Are callers notified?"),
            *_webhooks(),
            row("Does SQS respond?"),
            *_sqs(),
        ],
        by_instance=True,
    )


def _now() -> list[Json]:
    dead = f'{DEPTH}kind="dead_letter", state="visible"}}'  # for each queue
    return [
        stat(
            "Dead letters",
            "Jobs in the dead-letter queues, maximum of the last 5 minutes. They stay until someone redrives or deletes them.",
            Query(f"sum({dead})"),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE), (100, RED))),
            links=[runbook("TranscriptdDeadLettersGrowing")],
            width=4,
        ),
        stat(
            "New dead letters, 30 min",
            "Increase over the minimum of the last half hour.",
            Query(f"sum({dead} - min_over_time({dead}[30m]))"),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE), (10, RED))),
            links=[runbook("TranscriptdDeadLettersGrowing")],
            width=4,
        ),
        stat(
            "Leases lost, 1 h",
            "Work that was discarded and is repeated elsewhere. Nothing is lost, but this should be 0.",
            Query(f"round(sum(increase(transcriptd_leases_lost_total{{{S}}}[1h])))"),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE),)),
            links=[runbook("TranscriptdLeasesLost")],
            width=4,
        ),
        stat(
            "Unsettled, 1 h",
            "Outcome calls that did not succeed before the lease expired. The messages are redelivered.",
            Query(f"round(sum(increase(transcriptd_outcome_call_failures_total{{{S}}}[1h])))"),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE),)),
            links=[runbook("TranscriptdHeartbeatsFailing")],
            width=4,
        ),
        stat(
            "Events waiting",
            "Final events in the outbox, retried for a day.",
            Query(f'sum({DEPTH}kind="outbox"}})'),
            unit="short",
            steps=Steps(GREEN, ((20, YELLOW), (100, RED))),
            links=[runbook("TranscriptdWebhookBacklog")],
            width=4,
        ),
        stat(
            "Events given up, 24 h",
            "Final events that will not be delivered: the schedule ended, the receiver is gone or not allowed, or the "
            "event was malformed. `webhook.json` next to the result has the reason of a webhook.",
            Query(
                f'round(sum(increase(transcriptd_outbox_events_total{{{S}, result=~"exhausted|gone|refused|malformed|untrusted"}}[24h])))'
            ),
            unit="short",
            steps=Steps(GREEN, ((1, RED),)),
            links=[runbook("TranscriptdWebhookEventsOld")],
            width=4,
        ),
    ]


def _dead_letters() -> list[Json]:
    return [
        table(
            "Dead-lettered by reason",
            "In the selected time range. Jobs that SQS moved after too many receives count only in the queue depth. `transcriptd dlq list` shows each.",
            [reasons.failures(S, "dead_lettered")],
            [column for column in reasons.columns() if column.field != "outcome"],
            sort_by="Deliveries",
            descending=True,
            none="none",
            width=16,
            height=8,
        ),
        graph(
            "Dead-letter queues",
            "The depth of each, and the messages that these daemons have sent there since they started. If only the depth rises, SQS moved them.",
            Query(f'{DEPTH}kind="dead_letter", state="visible"}}', "in the one of {{queue}}"),
            Query(f'sum(transcriptd_deliveries_total{{{S}, outcome="dead_lettered"}})', "sent by daemons", BLUE),
            unit="short",
            decimals=0,
            height=8,
        ),
    ]


def _leases() -> list[Json]:
    beats = "sum by (instance) (rate(transcriptd_heartbeats_total{%s}[$__rate_interval]))"
    failed = beats % (S + ', result="failed"')
    margin = f"sum by (le) (rate(transcriptd_lease_margin_seconds_bucket{{{S}}}[$__rate_interval]))"
    return [
        graph(
            "Lease time left at extension",
            "Lowest 1 % and median. Should stay near the visibility timeout minus the heartbeat interval; near 0, leases are about to expire.",
            Query(f"histogram_quantile(0.5, {margin}) >= 0", "median", GREEN),
            Query(f"histogram_quantile(0.01, {margin}) >= 0", "lowest 1 %", ORANGE),
            unit="s",
        ),
        graph(
            "Failed extensions",
            "Share, by instance. Above the line for 5 minutes an alert pages someone: three consecutive failures lose a job.",
            Query(f"{failed} / {beats % S} >= 0", "{{instance}}"),
            unit="percentunit",
            most=1,
            steps=Steps(GREEN, ((0.2, RED),), line=True),
            links=[runbook("TranscriptdHeartbeatsFailing")],
        ),
        graph(
            "Lost leases, unsettled outcomes",
            "Each one repeats a job. Nothing is published twice.",
            Query(newly("transcriptd_leases_lost_total", "instance"), "lost, {{instance}}"),
            Query(
                newly("transcriptd_outcome_call_failures_total", "outcome") + " > 0 or vector(0)",
                "unsettled {{outcome}}",
            ),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdLeasesLost")],
        ),
    ]


def _webhooks() -> list[Json]:
    age = f"sum by (le) (rate(transcriptd_outbox_event_age_seconds_bucket{{{S}}}[$__rate_interval]))"
    took = (
        f"sum by (sink, event, le) (rate(transcriptd_event_attempt_duration_seconds_bucket{{{S}}}[$__rate_interval]))"
    )
    attempts = f"60 * sum by (sink) (rate(transcriptd_event_attempts_total{{{S}, result="
    return [
        graph(
            "Attempts per minute",
            "By sink: webhook or event_bus. retried: it failed or did not respond. failed: the last immediate attempt failed. "
            "refused: the host is not allowed, or the event is malformed.",
            *(
                Query(f'{attempts}"{result}"}}[$__rate_interval]))', f"{{{{sink}}}} {result}", colour)
                for result, colour in RESULT_COLOURS
            ),
            unit="short",
            stacked=True,
            width=6,
        ),
        graph(
            "Attempt duration, p95",
            "By sink and event. An attempt times out after TRANSCRIPTD_WEBHOOK_TIMEOUT_SECONDS (15 s) and is retried.",
            Query(f"histogram_quantile(0.95, {took}) >= 0", "{{sink}} {{event}}"),
            unit="s",
            steps=Steps(GREEN, ((15, RED),), line=True),
            width=6,
        ),
        graph(
            "Outbox",
            "Final events in the outbox by result: stored, deferred (not due, or failed), delivered. Events that are gone, "
            "exhausted, refused, malformed or untrusted are given up.",
            Query(
                f"sum by (result) (increase(transcriptd_outbox_events_total{{{S}}}[$__rate_interval])) > 0",
                "{{result}}",
            ),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdWebhookBacklog")],
            width=6,
        ),
        graph(
            "Age of events at each attempt, p95",
            "Since their first attempt. An alert fires at the lower line (10 h); events are given up at the upper line (24 h).",
            Query(f"histogram_quantile(0.95, {age}) >= 0", "age", BLUE),
            unit="s",
            steps=Steps(GREEN, ((OLD_SECONDS, ORANGE), (GIVEN_UP_SECONDS, RED)), line=True),
            links=[runbook("TranscriptdWebhookEventsOld")],
            width=6,
        ),
    ]


def _sqs() -> list[Json]:
    return [
        graph(
            "Receives per minute",
            "By result. empty is normal for an idle fleet; error points to AWS, the network or the role.",
            *(
                Query(
                    f'60 * sum(rate(transcriptd_receive_calls_total{{{S}, result="{result}"}}[$__rate_interval]))',
                    result,
                    colour,
                )
                for result, colour in (("messages", GREEN), ("empty", BLUE), ("error", RED))
            ),
            unit="short",
            stacked=True,
            links=[runbook("TranscriptdNotPolling")],
        ),
        graph(
            "Brake engaged",
            "Instances that stopped receiving from a queue because calls to a resource of the deployment fail for every job.",
            Query(f"sum by (queue, resource) (transcriptd_brake_engaged{{{S}}})", "{{queue}}: {{resource}}"),
            unit="short",
            links=[runbook("TranscriptdBrakeEngaged")],
        ),
        graph(
            "Failed polls of the queue depth",
            "By queue and kind. While polls fail, the depth is not known and alerts that depend on it cannot fire.",
            Query(
                f'sum by (queue, kind) (increase(transcriptd_queue_depth_polls_total{{{S}, result="error"}}[$__rate_interval]))',
                "{{queue}} ({{kind}})",
            ),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE),)),
            links=[runbook("TranscriptdQueueDepthUnknown")],
        ),
        graph(
            "Outbox by state",
            "delayed: waiting for the next attempt. visible and growing: no daemon receives them.",
            Query(f'{DEPTH}kind="outbox"}}', "{{state}}"),
            unit="short",
            decimals=0,
            stacked=True,
        ),
    ]
