"""Fleet overview: are users affected, what is the cause, where to look next. Open it first when paged."""

from deploy.monitoring.dashboards import frame
from deploy.monitoring.dashboards.frame import IN_ENVIRONMENT as E
from deploy.monitoring.dashboards.frame import runbook, to
from deploy.monitoring.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PLAIN,
    PURPLE,
    RED,
    YELLOW,
    Column,
    Json,
    Query,
    Steps,
    graph,
    link,
    row,
    stat,
    table,
    text,
)

PIPELINE = to(frame.PIPELINE, "Job pipeline: failures by reason")
INSTANCE = to(frame.INSTANCE, "Instance and GPU: all instances")
DELIVERY = to(frame.DELIVERY, "Delivery and dead letters")

LATE_SECONDS = 600  # the objective of rules/recording.yml
DEPTH = f"deployment:transcriptd_queue_messages:max{{{E}, "

FIRST_MINUTE = """
- **Wait or burn is red, busy share near 100 %**: too few instances. Check quotas, Spot capacity and `max_size`.
- **Wait is red, busy share near 0**: the instances are not working. Check the runner states on *Instance and GPU*.
- **Failed is red**: *Job pipeline* has the reasons, each with its owner and fix.
- **Dead letters**: *Delivery and DLQ* has them by reason. Jobs that the sender must fix can wait until morning.
- **Events waiting**: the results are available, but callers are not notified. *Delivery and DLQ* shows the attempts.
- **Interruptions** are not failures: jobs continue elsewhere. They cost time, not results.
- **Jobs waiting is not known**: no instance polls SQS. If the fleet is at zero, CloudWatch has the depth.
"""


def dashboard() -> Json:
    hurt = [
        stat(
            "Alerts firing",
            "Alerts firing now, except `info`. Should be 0. The table below links each to its runbook.",
            Query(
                f'count(ALERTS{{alertname=~"Transcriptd.+", alertstate="firing", severity=~"critical|warning", {E}}}) or vector(0)'
            ),
            unit="short",
            steps=Steps(GREEN, ((1, RED),)),
            links=[link("All runbooks", f"{frame.RUNBOOKS}/README.md")],
        ),
        stat(
            "Longest recent wait",
            "Longest queue wait of the jobs that each instance received last, in the past 10 minutes. "
            "Above 10 minutes it misses the objective: there are too few instances, or they are not working.",
            Query(
                f"max(transcriptd_last_queue_wait_seconds{{{E}}} and increase(transcriptd_queue_wait_seconds_count{{{E}}}[10m]) > 0)"
            ),
            unit="s",
            steps=Steps(GREEN, ((LATE_SECONDS / 2, YELLOW), (LATE_SECONDS, RED))),
            links=[PIPELINE, runbook("TranscriptdQueueWaitOverSlo")],
            none="no jobs",
        ),
        stat(
            "Budget burn, 1 h",
            "How fast the last hour spent the error budget for late jobs (1 % in 30 days), of the queue that spent most. "
            "Above 1 the budget will not last the month; from 14.4 it is exhausted within two days.",
            Query(f"max(deployment:transcriptd_queue_wait_late:ratio_rate1h{{{E}}} / 0.01 >= 0)"),
            unit="suffix:×",
            decimals=1,
            steps=Steps(GREEN, ((1, YELLOW), (6, ORANGE), (14.4, RED))),
            links=[PIPELINE, runbook("TranscriptdQueueWaitBurnFast")],
            none="no jobs",
        ),
        stat(
            "Jobs waiting",
            "Messages in SQS that no instance holds, maximum of the last 5 minutes. Their wait matters, not their number. "
            "Not known: no instance polled SQS in that time.",
            Query(f'sum({DEPTH}kind="jobs", state="visible"}})'),
            unit="short",
            steps=PLAIN,
            links=[DELIVERY, runbook("TranscriptdFleetStuck")],
        ),
        stat(
            "Dead letters",
            "Jobs in the dead-letter queues, maximum of the last 5 minutes. They stay until someone redrives or deletes them.",
            Query(f'sum({DEPTH}kind="dead_letter", state="visible"}})'),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE), (100, RED))),
            links=[DELIVERY, runbook("TranscriptdDeadLettersGrowing")],
        ),
        stat(
            "Failed, 15 min",
            "Share of deliveries that were retried, dead-lettered or unsettled. Interruptions do not count. "
            "Above a quarter an alert pages someone.",
            Query(f"deployment:transcriptd_deliveries_failed:ratio_rate15m{{{E}}} >= 0"),
            unit="percentunit",
            decimals=0,
            steps=Steps(GREEN, ((0.05, YELLOW), (0.25, RED))),
            links=[PIPELINE, runbook("TranscriptdJobFailures")],
            none="no jobs",
        ),
        stat(
            "Instances",
            "Running instances that respond to scrapes (up) and that do not (silent). An idle fleet has none.",
            Query(f'count(up{{job="transcriptd", {E}}} == 1) or vector(0)', "up", BLUE),
            Query(f'count(up{{job="transcriptd", {E}}} == 0) or vector(0)', "silent"),
            unit="short",
            steps=Steps(GREEN, ((1, RED),)),
            links=[INSTANCE, runbook("TranscriptdTargetDown")],
        ),
        stat(
            "Events waiting",
            "Final events in the outbox: the results are available, but their callers were not notified. An alert fires "
            "above 100 for half an hour.",
            Query(f'sum({DEPTH}kind="outbox"}})'),
            unit="short",
            steps=Steps(GREEN, ((20, YELLOW), (100, RED))),
            links=[DELIVERY, runbook("TranscriptdWebhookBacklog")],
        ),
    ]
    alerts = table(
        "Alerts, and what to do",
        "Firing and pending alerts. Click an alert to open its runbook: meaning, impact, how to verify, how to mitigate.",
        [f'sum by (alertname, severity, alertstate, instance) (ALERTS{{alertname=~"Transcriptd.+", {E}}})'],
        [
            Column(
                "alertname",
                "Alert",
                width=260,
                links=(link("Runbook", f"{frame.RUNBOOKS}/${{__value.raw}}.md"),),
            ),
            Column(
                "severity",
                "Severity",
                width=100,
                named=(("critical", "critical", RED), ("warning", "warning", ORANGE), ("info", "info", BLUE)),
            ),
            Column(
                "alertstate",
                "State",
                width=100,
                named=(("firing", "firing", RED), ("pending", "pending", GREY)),
            ),
            Column("instance", "Instance"),
        ],
        sort_by="Severity",
        none="no alerts",
        width=12,
        height=8,
    )
    return frame.dashboard(
        frame.FLEET,
        "transcriptd / Fleet overview",
        "Are users affected, what is the cause, and where to look next.",
        [
            row("Are users affected?"),
            *hurt,
            alerts,
            text("The first minute", FIRST_MINUTE, width=12, height=8),
            row("Are jobs being processed?"),
            *_flow(),
            row("Are there enough instances, and what do they cost?"),
            *_capacity(),
        ],
        by_instance=False,
    )


def _flow() -> list[Json]:
    def rate(outcomes: str) -> str:
        return f'60 * sum(rate(transcriptd_deliveries_total{{{E}, outcome=~"{outcomes}"}}[$__rate_interval]))'

    return [
        graph(
            "Queues",
            "Messages by queue and state, polled from SQS every minute, maximum of 5 minutes. If the queue grows while instances are busy, add instances.",
            Query(f'{DEPTH}kind="jobs"}}', "{{queue}}: {{state}}"),
            unit="short",
            decimals=0,
        ),
        graph(
            "Queue wait",
            "By queue: 95th percentile of the last hour, and the jobs received last. The line is the objective: 99 % of jobs below it.",
            Query(f"deployment:transcriptd_queue_wait_seconds:p95_1h{{{E}}} >= 0", "{{queue}}: p95 of the last hour"),
            Query(f"max by (queue) (transcriptd_last_queue_wait_seconds{{{E}}})", "{{queue}}: received last"),
            unit="s",
            steps=Steps(GREEN, ((LATE_SECONDS, RED),), line=True),
        ),
        graph(
            "Deliveries per minute",
            "By result. Interrupted deliveries (released, or with a lost lease) continue elsewhere and are not failures.",
            Query(rate("published"), "done", GREEN),
            Query(rate("retried|dead_lettered|unsettled"), "failed", RED),
            Query(rate("released|abandoned"), "interrupted", ORANGE),
            unit="short",
            stacked=True,
        ),
    ]


def _capacity() -> list[Json]:
    return [
        graph(
            "Runners by state",
            "One runner per device. Busy and ready runners can work. Many starting: models are loading, or fail to load. Defunct: the device is out of service.",
            *(
                Query(f'sum(transcriptd_runner_state{{{E}, state="{state}"}})', state, colour)
                for state, colour in (
                    ("busy", GREEN),
                    ("ready", BLUE),
                    ("starting", YELLOW),
                    ("new", GREY),
                    ("defunct", RED),
                )
            ),
            unit="short",
            decimals=0,
            stacked=True,
        ),
        graph(
            "Busy share of the runners",
            "Near 100 % while jobs wait: too few instances. Near 0 while jobs wait: the instances are not working.",
            Query(f"deployment:transcriptd_busy:ratio_rate5m{{{E}}}", "mean", GREEN),
            Query(f"max(instance:transcriptd_busy:ratio_rate5m{{{E}}})", "busiest", ORANGE),
            Query(f"min(instance:transcriptd_busy:ratio_rate5m{{{E}}})", "least busy", BLUE),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Interruptions announced",
            "Spot interruptions, rebalance recommendations, terminations by the group. The daemon drains; its jobs continue elsewhere.",
            Query(
                f"sum by (kind) (increase(transcriptd_interruptions_total{{{E}}}[$__rate_interval]))",
                "{{kind}}",
            ),
            unit="short",
            bars=True,
            stacked=True,
        ),
        graph(
            "Hours of audio per hour",
            "Throughput of the fleet: audio in published transcripts per wall-clock hour.",
            Query(f"sum(rate(transcriptd_audio_seconds_total{{{E}}}[5m]))", "audio", PURPLE),
            unit="short",
            width=12,
            height=6,
        ),
        graph(
            "Cost",
            "In the currency of TRANSCRIPTD_INSTANCE_PRICE_PER_HOUR; absent if the price is unknown. Idle instances raise "
            "the price of an audio hour.",
            Query(f"deployment:transcriptd_cost_per_audio_hour:ratio1h{{{E}}}", "per audio hour", ORANGE),
            Query(f"deployment:transcriptd_price_per_hour:sum{{{E}}}", "fleet per hour", BLUE),
            unit="short",
            decimals=2,
            width=12,
            height=6,
        ),
    ]
