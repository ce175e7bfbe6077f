"""Job pipeline: why jobs fail, where they spend time, whether the output is right."""

from deploy.monitoring.dashboards import frame, reasons
from deploy.monitoring.dashboards.frame import ON_INSTANCES as S
from deploy.monitoring.dashboards.frame import newly, runbook
from deploy.monitoring.dashboards.panels import BLUE, GREEN, ORANGE, RED, YELLOW, Json, Query, Steps, graph, row, table

FAILED = "retried|dead_lettered|unsettled"


def dashboard() -> Json:
    return frame.dashboard(
        frame.PIPELINE,
        "transcriptd / Job pipeline",
        "Why jobs fail, where they spend time, and whether the output is right.",
        [
            row("Why do jobs fail?"),
            *_failures(),
            row("Where do jobs spend time?"),
            *_time(),
            row("Is the output right, and is work repeated?"),
            *_quality(),
        ],
        by_instance=True,
    )


def _failures() -> list[Json]:
    per_minute = "60 * sum by ({by}) (rate(transcriptd_deliveries_total{{{select}}}[$__rate_interval])) > 0"
    return [
        table(
            "Failures by reason",
            "Failed deliveries in the selected time range, with the owner of each reason and its fix. "
            "A retried job is redelivered; a dead-lettered job waits for someone to redrive it.",
            [reasons.failures(S, FAILED)],
            reasons.columns(),
            sort_by="Deliveries",
            descending=True,
            none="no failures",
            width=24,
            height=10,
        ),
        graph(
            "Succeeded, per minute",
            "Published jobs, jobs that got more outputs (rendered), and duplicates of jobs published before.",
            Query(per_minute.format(by="reason", select=f'{S}, outcome="published"'), "{{reason}}"),
            unit="short",
            stacked=True,
        ),
        graph(
            "Failed, per minute",
            "By reason. A single reason: the table above has its fix. Many at once: check the instances.",
            Query(per_minute.format(by="reason", select=f'{S}, outcome=~"{FAILED}"'), "{{reason}}"),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdJobFailures")],
        ),
        graph(
            "Interrupted",
            "released: the daemon was shutting down. abandoned: the lease was lost. Neither is a failure, but leases should "
            "not be lost.",
            Query(
                newly("transcriptd_deliveries_total", "outcome", 'outcome=~"released|abandoned|cancelled"') + " > 0",
                "{{outcome}}",
            ),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdLeasesLost")],
        ),
    ]


def _quantile(share: str, metric: str, select: str = "") -> str:
    """Omit NaN, the value without observations."""
    inside = f"sum by (le) (rate({metric}_bucket{{{S}{select}}}[$__rate_interval]))"
    return f"histogram_quantile({share}, {inside})"


def _received_more_than(times: int) -> str:
    metric = "sum(rate(transcriptd_message_receive_count_{part}{{{select}}}[$__rate_interval]))"
    at_most = metric.format(part="bucket", select=f'{S}, le=~"{times}(\\\\.0)?"')
    return f"1 - {at_most} / {metric.format(part='count', select=S)} >= 0"


def _time() -> list[Json]:
    stages = "sum by (stage) (rate(transcriptd_stage_duration_seconds_{part}{{{select}}}[$__rate_interval]))"
    done = ', outcome="published"'
    return [
        graph(
            "Time from receive to result",
            "For succeeded jobs. Long recordings take longer: compare with the real-time factor.",
            Query(_quantile("0.5", "transcriptd_job_duration_seconds", done) + " >= 0", "median", GREEN),
            Query(_quantile("0.95", "transcriptd_job_duration_seconds", done) + " >= 0", "p95", YELLOW),
            unit="s",
        ),
        graph(
            "Mean time by stage",
            "Time of an average job in each stage. `wait` is for the device: jobs are staged while another one runs. "
            "If download or publish grow: S3 or the network. If asr grows: longer recordings, or a slower device.",
            Query(f"{stages.format(part='sum', select=S)} / {stages.format(part='count', select=S)} >= 0", "{{stage}}"),
            unit="s",
            stacked=True,
        ),
        graph(
            "Real-time factor",
            "Runner seconds per second of audio: 0.05 is 20 times real time. Above 1 the device is slower than speech.",
            Query(_quantile("0.5", "transcriptd_real_time_factor") + " >= 0", "median", GREEN),
            Query(_quantile("0.95", "transcriptd_real_time_factor") + " >= 0", "p95", YELLOW),
            unit="short",
            decimals=3,
            steps=Steps(GREEN, ((1, RED),), line=True),
        ),
        graph(
            "Batch fill",
            "Used share of Whisper's batches. Low is normal for short recordings; long ones should fill the batches.",
            Query(
                f"sum(rate(transcriptd_asr_batch_fill_ratio_sum{{{S}}}[$__rate_interval]))"
                f" / sum(rate(transcriptd_asr_batch_fill_ratio_count{{{S}}}[$__rate_interval])) >= 0",
                "fill",
                BLUE,
            ),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Size of inputs",
            "Size of the recordings. A sudden change explains a change in duration.",
            Query(_quantile("0.5", "transcriptd_input_bytes") + " >= 0", "median", GREEN),
            Query(_quantile("0.95", "transcriptd_input_bytes") + " >= 0", "p95", YELLOW),
            unit="bytes",
        ),
        graph(
            "Jobs in flight",
            "Messages held, by instance: many short recordings, or two long ones, up to TRANSCRIPTD_MAX_JOBS_IN_FLIGHT.",
            Query(f"sum by (instance) (transcriptd_jobs_in_flight{{{S}}})", "{{instance}}"),
            unit="short",
            decimals=0,
            stacked=True,
        ),
        graph(
            "Capacity for more jobs",
            "At 0 the daemon does not receive: the device is full, or jobs wait for memory. If jobs often wait while the batch "
            "fill is low, raise TRANSCRIPTD_MAX_AUDIO_IN_FLIGHT_SECONDS if the host has memory for it.",
            Query(f"max by (instance) (transcriptd_receive_capacity{{{S}}})", "{{instance}}: capacity"),
            Query(f"max by (instance) (transcriptd_jobs_waiting{{{S}}})", "{{instance}}: waiting for memory"),
            unit="short",
            decimals=0,
            width=12,
        ),
        graph(
            "Audio in the runner",
            "Of all jobs in progress, by instance. Each hour of audio takes up to 0.75 GiB of host memory.",
            Query(f"max by (instance) (transcriptd_audio_in_flight_seconds{{{S}}})", "{{instance}}"),
            unit="s",
            width=12,
        ),
    ]


def _quality() -> list[Json]:
    chunks = f"sum(rate(transcriptd_asr_chunks_total{{{S}, result=~'%s'}}[$__rate_interval]))"
    return [
        graph(
            "Whisper confidence",
            "Mean log-probability of the tokens in published transcripts; closer to 0 is more confident. A drop without a "
            "release: different recordings. A drop after a release: inspect its transcripts.",
            Query(_quantile("0.5", "transcriptd_transcript_avg_logprob"), "median", GREEN),
            Query(_quantile("0.1", "transcriptd_transcript_avg_logprob"), "lowest 10 %", ORANGE),
            unit="none",
            decimals=2,
            least=None,
            most=0,
        ),
        graph(
            "Chunks rejected by the filters",
            "Share of chunks that the hallucination filters rejected, and of rescans that they rejected. A jump: music, "
            "noise, or a hallucinating model.",
            Query(f"{chunks % 'rejected'} / {chunks % 'kept|rejected'} >= 0", "rejected", ORANGE),
            Query(f"{chunks % 'rescan_rejected'} / {chunks % '.+'} >= 0", "rescan rejected", BLUE),
            unit="percentunit",
        ),
        graph(
            "Degraded transcripts",
            "Warnings in published transcripts, by code. Each names a missing or reduced part of the result; the job succeeded.",
            Query(newly("transcriptd_warnings_total", "code"), "{{code}}"),
            unit="short",
            bars=True,
            stacked=True,
        ),
        graph(
            "Transcripts by language",
            "`none`: no speech. A new language is a new customer, or a detection error.",
            Query(newly("transcriptd_transcripts_total", "language"), "{{language}}"),
            unit="short",
            bars=True,
            stacked=True,
        ),
        graph(
            "Checkpoints",
            "Checkpoints of jobs: kept for a later delivery, restored by one, or not stored (failed). Restored checkpoints save work.",
            Query(f"sum by (result) (increase(transcriptd_checkpoints_total{{{S}}}[$__rate_interval]))", "{{result}}"),
            unit="short",
            bars=True,
            stacked=True,
        ),
        graph(
            "Redelivered messages",
            "Share of received messages that were received before, after a retry or an interruption. More than three "
            "receives: something keeps failing.",
            Query(_received_more_than(1), "received before", YELLOW),
            Query(_received_more_than(3), "more than 3 receives", RED),
            unit="percentunit",
            most=1,
        ),
    ]
