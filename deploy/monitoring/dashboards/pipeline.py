"""Job pipeline: why jobs fail, where their time goes, whether what comes out is right."""

from deploy.monitoring.dashboards import frame, reasons
from deploy.monitoring.dashboards.frame import ON_INSTANCES as S
from deploy.monitoring.dashboards.frame import newly, runbook
from deploy.monitoring.dashboards.panels import BLUE, GREEN, ORANGE, RED, YELLOW, Json, Query, Steps, graph, row, table

FAILED = "retried|dead_lettered|unsettled"


def dashboard() -> Json:
    return frame.dashboard(
        frame.PIPELINE,
        "transcriptd / Job pipeline",
        "Why jobs fail, where their time goes, and whether what comes out is right.",
        [
            row("Why do jobs fail?"),
            *_failures(),
            row("Where does the time go?"),
            *_time(),
            row("Is it right, and is work done twice?"),
            *_quality(),
        ],
        by_instance=True,
    )


def _failures() -> list[Json]:
    per_minute = "60 * sum by ({by}) (rate(transcriptd_jobs_total{{{select}}}[$__rate_interval])) > 0"
    return [
        table(
            "Failures by reason",
            "Deliveries of the time that is looked at which did not end well, whose matter the reason is, and its cure. "
            "A retried job comes again; a dead-lettered one waits for somebody.",
            [reasons.failures(S, FAILED)],
            reasons.columns(),
            sort_by="Deliveries",
            descending=True,
            none="no failures",
            width=24,
            height=10,
        ),
        graph(
            "Done, per minute",
            "Jobs that were published, and duplicates of jobs that had been.",
            Query(per_minute.format(by="reason", select=f'{S}, outcome="deleted"'), "{{reason}}"),
            unit="short",
            stacked=True,
        ),
        graph(
            "Failed, per minute",
            "By reason. One reason alone: the table above has its cure. Many at once: look at the instances.",
            Query(per_minute.format(by="reason", select=f'{S}, outcome=~"{FAILED}"'), "{{reason}}"),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdJobFailures")],
        ),
        graph(
            "Interrupted",
            "Given back because the daemon left (released), or left alone because the lease was lost (abandoned). No "
            "failures; lost leases should not be.",
            Query(newly("transcriptd_jobs_total", "outcome", 'outcome=~"released|abandoned"') + " > 0", "{{outcome}}"),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdLeasesLost")],
        ),
    ]


def _quantile(share: str, metric: str, select: str = "") -> str:
    """NaN, where nothing was observed, is left out."""
    inside = f"sum by (le) (rate({metric}_bucket{{{S}{select}}}[$__rate_interval]))"
    return f"histogram_quantile({share}, {inside})"


def _received_more_than(times: int) -> str:
    metric = "sum(rate(transcriptd_message_receives_{part}{{{select}}}[$__rate_interval]))"
    at_most = metric.format(part="bucket", select=f'{S}, le=~"{times}(\\\\.0)?"')
    return f"1 - {at_most} / {metric.format(part='count', select=S)} >= 0"


def _time() -> list[Json]:
    stages = "sum by (stage) (rate(transcriptd_stage_duration_seconds_{part}{{{select}}}[$__rate_interval]))"
    done = ', outcome="deleted"'
    return [
        graph(
            "Time from receive to result",
            "Of jobs that were done. A long job is no slow one: beside it stands the real-time factor.",
            Query(_quantile("0.5", "transcriptd_job_duration_seconds", done) + " >= 0", "half", GREEN),
            Query(_quantile("0.95", "transcriptd_job_duration_seconds", done) + " >= 0", "95 %", YELLOW),
            unit="s",
        ),
        graph(
            "Mean time by stage",
            "What an average job spends where. `wait` is for the device: jobs are staged in while another one runs. "
            "download or publish grow: S3 or the network. asr grows: longer recordings, or a slower device.",
            Query(f"{stages.format(part='sum', select=S)} / {stages.format(part='count', select=S)} >= 0", "{{stage}}"),
            unit="s",
            stacked=True,
        ),
        graph(
            "Real-time factor",
            "Runner seconds per second of audio: 0.05 is 20 times real time. Above 1 the device is slower than speech.",
            Query(_quantile("0.5", "transcriptd_real_time_factor") + " >= 0", "half", GREEN),
            Query(_quantile("0.95", "transcriptd_real_time_factor") + " >= 0", "95 %", YELLOW),
            unit="short",
            decimals=3,
            steps=Steps(GREEN, ((1, RED),), line=True),
        ),
        graph(
            "Batch fill",
            "Share of Whisper's batches that was used. Low is normal for short recordings; long ones should fill them.",
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
            "A sudden change explains a change of time.",
            Query(_quantile("0.5", "transcriptd_input_bytes") + " >= 0", "half", GREEN),
            Query(_quantile("0.95", "transcriptd_input_bytes") + " >= 0", "95 %", YELLOW),
            unit="bytes",
        ),
        graph(
            "Jobs in hand",
            "Messages held now, by instance: many short recordings, or two long ones. TRANSCRIPTD_JOBS_IN_FLIGHT is the most.",
            Query(f"sum by (instance) (transcriptd_jobs_in_flight{{{S}}})", "{{instance}}"),
            unit="short",
            decimals=0,
            stacked=True,
        ),
        graph(
            "Room for more jobs",
            "At 0 nothing is received: what is in hand is as much as the device can use, or jobs wait for memory. Often waiting "
            "beside a low batch fill: raise TRANSCRIPTD_AUDIO_IN_FLIGHT_SECONDS if the host has memory for it.",
            Query(f"max by (instance) (transcriptd_jobs_in_flight_room{{{S}}})", "{{instance}}: room"),
            Query(f"max by (instance) (transcriptd_jobs_waiting{{{S}}})", "{{instance}}: waiting for memory"),
            unit="short",
            decimals=0,
            width=12,
        ),
        graph(
            "Audio in the runner",
            "Of all jobs that it has now, by instance. Its memory grows by up to 0.75 GiB with each hour.",
            Query(f"max by (instance) (transcriptd_audio_in_flight_seconds{{{S}}})", "{{instance}}"),
            unit="s",
            width=12,
        ),
    ]


def _quality() -> list[Json]:
    chunks = f"sum(rate(transcriptd_asr_chunks_total{{{S}, result=~'%s'}}[$__rate_interval]))"
    return [
        graph(
            "Certainty of Whisper",
            "Mean log-probability of the tokens of published transcripts; nearer 0 is surer. A fall without a release: "
            "other recordings. With one: look at its transcripts.",
            Query(_quantile("0.5", "transcriptd_transcript_avg_logprob"), "half", GREEN),
            Query(_quantile("0.1", "transcriptd_transcript_avg_logprob"), "least certain 10 %", ORANGE),
            unit="none",
            decimals=2,
            least=None,
            most=0,
        ),
        graph(
            "Speech left out, or not believed",
            "Share of the chunks that the gates against made-up text left out (gated), and of second hearings that were "
            "not believed (dismissed). A jump: music, noise, or a model that makes things up.",
            Query(f"{chunks % 'gated'} / {chunks % 'heard|gated'} >= 0", "gated", ORANGE),
            Query(f"{chunks % 'dismissed'} / {chunks % '.+'} >= 0", "dismissed", BLUE),
            unit="percentunit",
        ),
        graph(
            "Degraded transcripts",
            "Warnings in published transcripts by code: each says what the transcript lacks. The job succeeded.",
            Query(newly("transcriptd_warnings_total", "code"), "{{code}}"),
            unit="short",
            bars=True,
            stacked=True,
        ),
        graph(
            "Transcripts by language",
            "`none` had no speech. A new language is a new customer, or a wrong guess.",
            Query(newly("transcriptd_transcripts_total", "language"), "{{language}}"),
            unit="short",
            bars=True,
            stacked=True,
        ),
        graph(
            "Checkpoints",
            "Finished parts of jobs: kept for a later delivery, restored by one, or failed to be kept. Restored is work saved.",
            Query(f"sum by (result) (increase(transcriptd_checkpoints_total{{{S}}}[$__rate_interval]))", "{{result}}"),
            unit="short",
            bars=True,
            stacked=True,
        ),
        graph(
            "Messages that come again",
            "Share of what was received that SQS had handed out before. Retries and interruptions do that; more than three "
            "times, something keeps failing.",
            Query(_received_more_than(1), "again", YELLOW),
            Query(_received_more_than(3), "more than 3 times", RED),
            unit="percentunit",
            most=1,
        ),
    ]
