"""Instance and GPU: which instance is unhealthy, and whether the device, the runner or the machine is the cause."""

from deploy.monitoring.dashboards import frame
from deploy.monitoring.dashboards.frame import ON_INSTANCES as S
from deploy.monitoring.dashboards.frame import runbook
from deploy.monitoring.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PLAIN,
    RED,
    YELLOW,
    Column,
    Json,
    Query,
    Steps,
    graph,
    link,
    row,
    table,
    timeline,
)

UP = (("1", "up", GREEN), ("0", "silent", RED))
STATES = (
    ("0", "new", GREY),
    ("1", "starting", YELLOW),
    ("2", "ready", BLUE),
    ("3", "busy", GREEN),
    ("4", "defunct", RED),
)

# The state of each device as its number in STATES.
STATE = " + ".join(
    f'{number} * sum by (instance, device) (transcriptd_runner_state{{{S}, state="{state}"}})'
    for number, state, _ in STATES
)

STALL_SECONDS, SKEW_SECONDS, HOT_CELSIUS = 180, 30, 85  # the first two match rules/alerts.yml


def dashboard() -> Json:
    return frame.dashboard(
        frame.INSTANCE,
        "transcriptd / Instance and GPU",
        "Which instance is unhealthy, and whether the device, the runner or the machine is the cause.",
        [
            row("Which instance is unhealthy?"),
            _instances(),
            row("Is the device healthy?"),
            *_device(),
            row("Is the runner stable?"),
            *_runner(),
            row("Is the machine healthy?"),
            *_machine(),
        ],
        by_instance=True,
    )


def _instances() -> Json:
    def of(metric: str) -> str:
        return f"max by (instance) ({metric}{{{S}}})"

    there = f" and on (instance) up{{{S}}}"  # recorded rules outlive terminated instances
    this = link(
        "Only this instance", f"/d/{frame.INSTANCE}?var-environment=${{environment}}&var-instance=${{__value.raw}}"
    )
    columns = [
        Column("instance", "Instance", links=(this,)),
        Column("Value #A", "Scrape", named=UP, width=80),
        Column("Value #B", "Runner", named=STATES, width=90),
        Column("asr_model", "Model"),
        Column("device_name", "Device"),
        Column("version", "Version", width=90),
        Column("Value #E", "Busy, 5 min", "percentunit", decimals=0, width=100),
        Column("Value #F", "In progress", "short", decimals=0, width=80),
        Column("Value #G", "Restarts, 1 h", "short", Steps(GREEN, ((1, YELLOW), (4, RED))), decimals=0, width=110),
        Column(
            "Value #H",
            "Receive overdue",
            "s",
            Steps(GREEN, ((60, YELLOW), (STALL_SECONDS, RED))),
            decimals=0,
            width=110,
        ),
        Column("Value #I", "Clock skew", "s", Steps(GREEN, ((5, YELLOW), (SKEW_SECONDS, RED))), decimals=1, width=110),
        Column("Value #J", "Uptime", "s", decimals=0, width=110),
    ]
    return table(
        "Instances",
        "One line per instance, current values. Check Scrape and Runner first: replace an instance that is silent or keeps "
        "restarting its runner. With several devices, a defunct runner is shown first, then the busiest. An instance without "
        "a model has not loaded one yet.",
        [
            of("up"),
            f"max by (instance) ({STATE})",
            f"max by (instance, asr_model, device_name) (transcriptd_runner_info{{{S}}})",
            f"max by (instance, version) (transcriptd_build_info{{{S}}})",
            of("instance:transcriptd_busy:ratio_rate5m") + there,
            f"sum by (instance) (transcriptd_jobs_in_flight{{{S}}})",
            f"round(sum by (instance) (increase(transcriptd_runner_restarts_total{{{S}}}[1h])))" + there,
            of("transcriptd_poll_stalled_seconds"),
            f"abs({of('transcriptd_clock_skew_seconds')})",
            f"time() - {of('process_start_time_seconds')}",
        ],
        columns,
        sort_by="Instance",
        width=24,
        height=7,
    )


def _device() -> list[Json]:
    gpu = "{{instance}} / {{gpu}}"
    errors = runbook("TranscriptdGpuErrors")
    return [
        graph(
            "GPU utilisation",
            "Share of NVML's sample period in which a kernel ran. Low while the runner is busy: it is waiting for data or the CPU.",
            Query(f"transcriptd_gpu_utilisation_ratio{{{S}}}", gpu),
            unit="percentunit",
            most=1,
            width=6,
        ),
        graph(
            "GPU memory",
            "Share in use by all processes. Above the line a long recording may run out of memory: expect `out_of_memory` failures.",
            Query(f"transcriptd_gpu_memory_used_bytes{{{S}}} / transcriptd_gpu_memory_size_bytes{{{S}}}", gpu),
            unit="percentunit",
            most=1,
            steps=Steps(GREEN, ((0.95, RED),), line=True),
            width=6,
        ),
        graph(
            "GPU temperature",
            "Above the line most data-centre GPUs throttle; the exact limit is in their datasheet.",
            Query(f"transcriptd_gpu_temperature_celsius{{{S}}}", gpu),
            unit="celsius",
            least=None,
            steps=Steps(GREEN, ((HOT_CELSIUS, RED),), line=True),
            width=6,
        ),
        graph(
            "GPU errors",
            "Xid errors since start-up, by number, and failed NVML queries. Should be none. 48, 63, 64, 74, 79, 92, 94, 95 and "
            "119 are hardware or driver errors: replace the instance.",
            Query(f"sum by (instance, gpu, xid) (transcriptd_gpu_xid_errors_total{{{S}}})", f"Xid {{{{xid}}}}, {gpu}"),
            Query(f"sum(increase(transcriptd_gpu_query_failures_total{{{S}}}[$__rate_interval]))", "NVML failed"),
            unit="short",
            decimals=0,
            steps=Steps(GREEN, ((1, RED),)),
            links=[errors],
            width=6,
        ),
    ]


def _runner() -> list[Json]:
    return [
        timeline(
            "Runner",
            "State per device. Repeated starts: models do not load, or the process dies. Defunct: the device is out of service; "
            "with the last device the daemon exits with status 70.",
            Query(STATE, "{{instance}}, {{device}}"),
            STATES,
        ),
        graph(
            "Runner processes replaced",
            "By reason. recycled and leak are housekeeping; exit and signal are crashes, stalled a hang, device_fault a CUDA error.",
            Query(
                f"sum by (reason) (increase(transcriptd_runner_restarts_total{{{S}}}[$__rate_interval])) > 0",
                "{{reason}}",
            ),
            unit="short",
            bars=True,
            stacked=True,
            links=[runbook("TranscriptdRunnerCrashLoop")],
        ),
        graph(
            "Memory of the runner",
            "host: resident memory. device: used by all processes, after each job; 0 without a GPU. A steady rise is a leak; the daemon replaces the runner before it runs out.",
            Query(f"transcriptd_runner_memory_bytes{{{S}}}", "{{instance}}, {{device}}, {{where}}"),
            unit="bytes",
        ),
        graph(
            "Busy share",
            "Share of the last 5 minutes in which the runner had a job; mean of several devices.",
            Query(f"instance:transcriptd_busy:ratio_rate5m{{{S}}}", "{{instance}}"),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Time to load the models",
            "For the current runner. Minutes longer than usual: the disk or the hub is slow.",
            Query(f"transcriptd_model_load_seconds{{{S}}}", "{{instance}}, {{device}}"),
            unit="s",
        ),
        graph(
            "Interruptions announced",
            "By instance and kind. The instance drains and terminates.",
            Query(
                f"sum by (instance, kind) (increase(transcriptd_interruptions_total{{{S}}}[$__rate_interval])) > 0",
                "{{instance}}, {{kind}}",
            ),
            unit="short",
            bars=True,
            stacked=True,
        ),
    ]


def _machine() -> list[Json]:
    return [
        graph(
            "Event-loop lag of the poller",
            "99th percentile. Above a second, heartbeats are late: the CPU is overloaded, or the loop is blocked.",
            Query(
                f"histogram_quantile(0.99, sum by (instance, le) (rate(transcriptd_event_loop_lag_seconds_bucket{{{S}}}[$__rate_interval]))) >= 0",
                "{{instance}}",
            ),
            unit="s",
            steps=Steps(GREEN, ((1, RED),), line=True),
        ),
        graph(
            "Receive overdue",
            "Time since a receive was due without success. At the line readiness fails; if all queues are there, systemd restarts the daemon.",
            Query(f"transcriptd_poll_stalled_seconds{{{S}}}", "{{instance}}: {{queue}}"),
            unit="s",
            steps=Steps(GREEN, ((STALL_SECONDS, RED),), line=True),
            links=[runbook("TranscriptdNotPolling")],
        ),
        graph(
            "Clock",
            "Local clock minus SQS clock. Beyond 5 minutes AWS rejects every call.",
            Query(f"transcriptd_clock_skew_seconds{{{S}}}", "{{instance}}"),
            unit="s",
            least=None,
            steps=Steps(RED, ((-SKEW_SECONDS, GREEN), (SKEW_SECONDS, RED)), line=True),
            links=[runbook("TranscriptdClockSkew")],
        ),
        graph(
            "Scratch disk",
            "Free space, and the floor below which the daemon stops receiving.",
            Query(f"transcriptd_scratch_free_bytes{{{S}}}", "{{instance}}"),
            Query(f"max(transcriptd_scratch_min_free_bytes{{{S}}})", "floor", RED),
            unit="bytes",
            links=[runbook("TranscriptdScratchDiskLow")],
        ),
        graph(
            "Memory of the poller",
            "Resident memory. Should stay at its level of one hour after start-up.",
            Query(f'process_resident_memory_bytes{{job="transcriptd", {S}}}', "{{instance}}"),
            unit="bytes",
            steps=PLAIN,
        ),
        graph(
            "Instance metadata failing",
            "Failed polls of the EC2 instance metadata: interruptions would go unnoticed.",
            Query(
                f"sum by (instance) (increase(transcriptd_imds_poll_failures_total{{{S}}}[$__rate_interval]))",
                "{{instance}}",
            ),
            unit="short",
            bars=True,
            steps=Steps(GREEN, ((1, ORANGE),)),
        ),
        graph(
            "Background tasks failing",
            "Failures of the daemon's background tasks. The daemon restarts a failed task within 20 s.",
            Query(
                f"sum by (instance, task) (increase(transcriptd_background_task_failures_total{{{S}}}[$__rate_interval]))",
                "{{instance}} {{task}}",
            ),
            unit="short",
            bars=True,
            steps=Steps(GREEN, ((1, ORANGE),)),
            links=[runbook("TranscriptdBackgroundTaskFailing")],
        ),
    ]
