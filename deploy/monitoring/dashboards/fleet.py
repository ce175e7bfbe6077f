"""Fleet overview: is anyone hurt, whose fault is it, where to look next. The one to open at night."""

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

PIPELINE = to(frame.PIPELINE, "Job pipeline: which reason?")
INSTANCE = to(frame.INSTANCE, "Instance and GPU: which one?")
DELIVERY = to(frame.DELIVERY, "Delivery and dead letters")

LATE_SECONDS = 600  # the objective of rules/recording.yml
DEPTH = f"deployment:transcriptd_queue_messages:max{{{E}, "

FIRST_MINUTE = """
- **Wait or burn is red, busy share near 100 %**: too few instances. Quota, Spot capacity, `max_size`.
- **Wait is red, busy share near 0**: they do not work. *Instance and GPU*: which state are the runners in?
- **Failed is red**: *Job pipeline* says the reason, whose matter it is and the cure.
- **Dead letters**: *Delivery and DLQ*, by reason. The sender's are for the sender, nobody needs to wake.
- **Webhooks wait**: results are there, callers do not hear of them. *Delivery and DLQ*: which receivers fail?
- **Interruptions** are no failures: jobs continue elsewhere. They cost time, not results.
- **Jobs waiting is not known**: no instance asks SQS. Is the fleet at zero? CloudWatch has the depth.
"""


def dashboard() -> Json:
    hurt = [
        stat(
            "Alerts firing",
            "Alerts that fire now, but for `info`. 0 is good; the table below has each with its runbook.",
            Query(
                f'count(ALERTS{{alertname=~"Transcriptd.+", alertstate="firing", severity=~"critical|warning", {E}}}) or vector(0)'
            ),
            unit="short",
            steps=Steps(GREEN, ((1, RED),)),
            links=[link("All runbooks", f"{frame.RUNBOOKS}/README.md")],
        ),
        stat(
            "Longest wait lately",
            "Of the jobs that instances received last in the past 10 minutes, the longest time from being sent. "
            "From 10 minutes on it breaks the objective: too few instances, or they do not work.",
            Query(
                f"max(transcriptd_queue_last_wait_seconds{{{E}}} and increase(transcriptd_queue_wait_seconds_count{{{E}}}[10m]) > 0)"
            ),
            unit="s",
            steps=Steps(GREEN, ((LATE_SECONDS / 2, YELLOW), (LATE_SECONDS, RED))),
            links=[PIPELINE, runbook("TranscriptdQueueWaitOverSlo")],
            none="no jobs",
        ),
        stat(
            "Budget burn, 1 h",
            "How many times too fast the budget of late jobs (1 % in 30 days) was spent in the last hour. "
            "Above 1 it will not last the month, from 14.4 on it is gone within two days.",
            Query(f"deployment:transcriptd_queue_wait_late:ratio_rate1h{{{E}}} / 0.01 >= 0"),
            unit="suffix:×",
            decimals=1,
            steps=Steps(GREEN, ((1, YELLOW), (6, ORANGE), (14.4, RED))),
            links=[PIPELINE, runbook("TranscriptdQueueWaitBurnFast")],
            none="no jobs",
        ),
        stat(
            "Jobs waiting",
            "Messages that SQS has and nobody holds, the most of the last 5 minutes. Neither good nor bad: how long they "
            "wait counts. Not known: no instance asked SQS in that time.",
            Query(f'{DEPTH}queue="jobs", state="visible"}}'),
            unit="short",
            steps=PLAIN,
            links=[DELIVERY, runbook("TranscriptdFleetStuck")],
        ),
        stat(
            "Dead letters",
            "Jobs in the dead-letter queue, the most of the last 5 minutes. They stay until somebody redrives or deletes them.",
            Query(f'{DEPTH}queue="dead_letter", state="visible"}}'),
            unit="short",
            steps=Steps(GREEN, ((1, ORANGE), (100, RED))),
            links=[DELIVERY, runbook("TranscriptdDeadLettersGrowing")],
        ),
        stat(
            "Failed, 15 min",
            "Share of the deliveries that were retried, dead-lettered or not settled. Interruptions are not among them. "
            "From a quarter on an alert wakes somebody.",
            Query(f"deployment:transcriptd_jobs_failed:ratio_rate15m{{{E}}} >= 0"),
            unit="percentunit",
            decimals=0,
            steps=Steps(GREEN, ((0.05, YELLOW), (0.25, RED))),
            links=[PIPELINE, runbook("TranscriptdJobFailures")],
            none="no jobs",
        ),
        stat(
            "Instances",
            "Instances that answer scrapes, and those that run and do not answer. None at all is right for an idle fleet.",
            Query(f'count(up{{job="transcriptd", {E}}} == 1) or vector(0)', "up", BLUE),
            Query(f'count(up{{job="transcriptd", {E}}} == 0) or vector(0)', "silent"),
            unit="short",
            steps=Steps(GREEN, ((1, RED),)),
            links=[INSTANCE, runbook("TranscriptdTargetDown")],
        ),
        stat(
            "Webhooks waiting",
            "Final events in the outbox: results are there, and their callers have not heard. From 100 on for half an "
            "hour an alert fires.",
            Query(f'sum({DEPTH}queue="outbox"}})'),
            unit="short",
            steps=Steps(GREEN, ((20, YELLOW), (100, RED))),
            links=[DELIVERY, runbook("TranscriptdWebhookBacklog")],
        ),
    ]
    alerts = table(
        "Alerts, and what to do",
        "What fires or is about to (pending). A click on an alert opens its runbook: meaning, impact, how to confirm, what to do.",
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
        none="no alert fires",
        width=12,
        height=8,
    )
    return frame.dashboard(
        frame.FLEET,
        "transcriptd / Fleet overview",
        "Is anyone hurt, whose fault is it, and where to look next.",
        [
            row("Is anyone hurt?"),
            *hurt,
            alerts,
            text("The first minute", FIRST_MINUTE, width=12, height=8),
            row("Does the work flow?"),
            *_flow(),
            row("Are there enough instances, and what do they cost?"),
            *_capacity(),
        ],
        by_instance=False,
    )


def _flow() -> list[Json]:
    def rate(outcomes: str) -> str:
        return f'60 * sum(rate(transcriptd_jobs_total{{{E}, outcome=~"{outcomes}"}}[$__rate_interval]))'

    return [
        graph(
            "Queue",
            "Messages by state, as SQS counts them every minute, the most of 5 minutes. A queue that grows while instances are busy needs more of them.",
            Query(f'{DEPTH}queue="jobs"}}', "{{state}}"),
            unit="short",
            decimals=0,
        ),
        graph(
            "Wait before the work begins",
            "Of the jobs of the last hour (95th percentile), and of those received last. The line is the objective: 99 % below it.",
            Query(f"deployment:transcriptd_queue_wait_seconds:p95_1h{{{E}}} >= 0", "95 % of the last hour", YELLOW),
            Query(f"max(transcriptd_queue_last_wait_seconds{{{E}}})", "received last", BLUE),
            unit="s",
            steps=Steps(GREEN, ((LATE_SECONDS, RED),), line=True),
        ),
        graph(
            "Deliveries per minute",
            "How they ended. Interrupted ones, released or with a lost lease, continue elsewhere and are no failures.",
            Query(rate("deleted"), "done", GREEN),
            Query(rate("retried|dead_lettered|unsettled"), "failed", RED),
            Query(rate("released|abandoned"), "interrupted", ORANGE),
            unit="short",
            stacked=True,
        ),
    ]


def _capacity() -> list[Json]:
    return [
        graph(
            "Runners by their state",
            "A runner for each device. Busy and ready ones can work. Many starting: models load, or cannot be loaded. Defunct: the device is given up.",
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
            "Near 100 % while jobs wait: too few instances. Near 0 while jobs wait: they do not work.",
            Query(f"deployment:transcriptd_busy:ratio_rate5m{{{E}}}", "mean", GREEN),
            Query(f"max(instance:transcriptd_busy:ratio_rate5m{{{E}}})", "busiest", ORANGE),
            Query(f"min(instance:transcriptd_busy:ratio_rate5m{{{E}}})", "idlest", BLUE),
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
            "Audio in published transcripts, for an hour of the clock: what the fleet gets done.",
            Query(f"sum(rate(transcriptd_audio_seconds_total{{{E}}}[5m]))", "audio", PURPLE),
            unit="short",
            width=12,
            height=6,
        ),
        graph(
            "Cost",
            "In the currency of TRANSCRIPTD_INSTANCE_PRICE_PER_HOUR; absent where the price is unknown. An hour of audio "
            "gets dearer when instances idle.",
            Query(f"deployment:transcriptd_cost_per_audio_hour:ratio1h{{{E}}}", "an hour of audio", ORANGE),
            Query(f"deployment:transcriptd_price_per_hour:sum{{{E}}}", "an hour of the fleet", BLUE),
            unit="short",
            decimals=2,
            width=12,
            height=6,
        ),
    ]
