"""Delivery and DLQ: is anything lost, done twice or not told; dead letters, leases, webhooks, SQS."""

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
OLD_SECONDS, GIVEN_UP_SECONDS = 36_000, 86_400  # rules/alerts.yml; the end of TRANSCRIPTD_WEBHOOK_SCHEDULE_SECONDS

RESULT_COLOURS = (("delivered", GREEN), ("retried", YELLOW), ("failed", ORANGE), ("refused", RED))


def dashboard() -> Json:
    return frame.dashboard(
        frame.DELIVERY,
        "transcriptd / Delivery and DLQ",
        "Is anything lost, done twice or not told: dead letters, leases, webhooks, SQS.",
        [
            row("Is anything lost, done twice or not told?"),
            *_now(),
            row("Why are jobs dead-lettered?"),
            *_dead_letters(),
            row("Are the leases safe?"),
            *_leases(),
            row("Do callers hear of it?"),
            *_webhooks(),
            row("Does SQS answer?"),
            *_sqs(),
        ],
        by_instance=True,
    )


def _now() -> list[Json]:
    dead = f'{DEPTH}queue="dead_letter", state="visible"}}'
    return [
        stat(
            "Dead letters",
            "Jobs in the dead-letter queue, the most of the last 5 minutes. They stay until somebody redrives or deletes them.",
            Query(dead),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE), (100, RED))),
            links=[runbook("TranscriptdDeadLettersGrowing")],
            width=4,
        ),
        stat(
            "New ones, 30 min",
            "How many more there are than at their fewest in the last half hour.",
            Query(f"{dead} - min_over_time({dead}[30m])"),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE), (10, RED))),
            links=[runbook("TranscriptdDeadLettersGrowing")],
            width=4,
        ),
        stat(
            "Leases lost, 1 h",
            "Work that was thrown away and is done again elsewhere. Nothing is lost, but it should be 0.",
            Query(f"round(sum(increase(transcriptd_leases_lost_total{{{S}}}[1h])))"),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE),)),
            links=[runbook("TranscriptdLeasesLost")],
            width=4,
        ),
        stat(
            "Not settled, 1 h",
            "Outcomes that SQS could not be told while the lease lasted: the messages come back.",
            Query(f"round(sum(increase(transcriptd_settle_failures_total{{{S}}}[1h])))"),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE),)),
            links=[runbook("TranscriptdHeartbeatsFailing")],
            width=4,
        ),
        stat(
            "Webhooks waiting",
            "Final events in the outbox, tried again for a day.",
            Query(f'sum({DEPTH}queue="outbox"}})'),
            unit="short",
            steps=Steps(GREEN, ((20, YELLOW), (100, RED))),
            links=[runbook("TranscriptdWebhookBacklog")],
            width=4,
        ),
        stat(
            "Webhooks given up, 24 h",
            "Final events whose callers will not hear: the schedule ended, the receiver is gone or not allowed, or the "
            "event was malformed. `webhook.json` beside the result says which.",
            Query(
                f'round(sum(increase(transcriptd_webhook_outbox_total{{{S}, result=~"exhausted|gone|refused|malformed"}}[24h])))'
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
            "In the time that is looked at. Jobs that SQS moved by itself, after too many receives, are counted in the queue alone.",
            [reasons.failures(S, "dead_lettered")],
            [column for column in reasons.columns() if column.field != "outcome"],
            sort_by="Deliveries",
            descending=True,
            none="none",
            width=16,
            height=8,
        ),
        graph(
            "Dead-letter queue",
            "Its depth, and what these daemons put there since they started. The first alone rises: SQS moved them.",
            Query(f'{DEPTH}queue="dead_letter", state="visible"}}', "in the queue", ORANGE),
            Query(f'sum(transcriptd_jobs_total{{{S}, outcome="dead_lettered"}})', "put there", BLUE),
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
            "Time left on the lease when it was extended",
            "Smallest 1 % and half. It should stay near visibility timeout minus heartbeat; near 0 leases are about to be lost.",
            Query(f"histogram_quantile(0.5, {margin}) >= 0", "half", GREEN),
            Query(f"histogram_quantile(0.01, {margin}) >= 0", "smallest 1 %", ORANGE),
            unit="s",
        ),
        graph(
            "Extensions that failed",
            "Share, by instance. Above the line for 5 minutes an alert wakes somebody: three in a row lose a job.",
            Query(f"{failed} / {beats % S} >= 0", "{{instance}}"),
            unit="percentunit",
            most=1,
            steps=Steps(GREEN, ((0.2, RED),), line=True),
            links=[runbook("TranscriptdHeartbeatsFailing")],
        ),
        graph(
            "Leases lost, outcomes not settled",
            "Each means that a job is done again. Nothing is published twice.",
            Query(newly("transcriptd_leases_lost_total", "instance"), "lost, {{instance}}"),
            Query(
                newly("transcriptd_settle_failures_total", "outcome") + " > 0 or vector(0)", "not settled {{outcome}}"
            ),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdLeasesLost")],
        ),
    ]


def _webhooks() -> list[Json]:
    age = f"sum by (le) (rate(transcriptd_webhook_outbox_age_seconds_bucket{{{S}}}[$__rate_interval]))"
    took = f"sum by (event, le) (rate(transcriptd_webhook_attempt_seconds_bucket{{{S}}}[$__rate_interval]))"
    attempts = f"60 * sum(rate(transcriptd_webhook_attempts_total{{{S}, result="
    return [
        graph(
            "Attempts per minute",
            "retried: the receiver failed or did not answer. failed: it was the last quick try. refused: the host is not allowed.",
            *(
                Query(f'{attempts}"{result}"}}[$__rate_interval]))', result, colour)
                for result, colour in RESULT_COLOURS
            ),
            unit="short",
            stacked=True,
            width=6,
        ),
        graph(
            "Time of an attempt, 95 %",
            "By event. At TRANSCRIPTD_WEBHOOK_TIMEOUT_SECONDS (15 s) it is given up and tried again.",
            Query(f"histogram_quantile(0.95, {took}) >= 0", "{{event}}"),
            unit="s",
            steps=Steps(GREEN, ((15, RED),), line=True),
            width=6,
        ),
        graph(
            "Outbox",
            "What became of final events there: stored, deferred (not due, or failed), delivered; gone, exhausted, "
            "refused and malformed ones are given up.",
            Query(
                f"sum by (result) (increase(transcriptd_webhook_outbox_total{{{S}}}[$__rate_interval])) > 0",
                "{{result}}",
            ),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdWebhookBacklog")],
            width=6,
        ),
        graph(
            "Age of events when tried, 95 %",
            "From their first try. The lower line is 10 h, where an alert fires; the upper 24 h, where they are given up.",
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
            "By result. empty is normal for an idle fleet; error is AWS, the network or the role.",
            *(
                Query(
                    f'60 * sum(rate(transcriptd_receives_total{{{S}, result="{result}"}}[$__rate_interval]))',
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
            "Questions for the depth that failed",
            "By queue. While they fail the depth is not known, and the alerts that need it are blind.",
            Query(
                f'sum by (queue) (increase(transcriptd_queue_depth_polls_total{{{S}, result="error"}}[$__rate_interval]))',
                "{{queue}}",
            ),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE),)),
            links=[runbook("TranscriptdQueueDepthUnknown")],
        ),
        graph(
            "Outbox by state",
            "delayed: waits for its next try. visible and growing: nobody takes them.",
            Query(f'{DEPTH}queue="outbox"}}', "{{state}}"),
            unit="short",
            decimals=0,
            stacked=True,
        ),
    ]
