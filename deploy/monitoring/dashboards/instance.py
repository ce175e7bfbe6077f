"""Instance and GPU: which instance is ill, and whether it is the device, the runner or the machine."""

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

# The state with value 1, as its number in STATES: of each device.
STATE = " + ".join(
    f'{number} * sum by (instance, device) (transcriptd_runner_state{{{S}, state="{state}"}})'
    for number, state, _ in STATES
)

STALL_SECONDS, SKEW_SECONDS, HOT_CELSIUS = 180, 30, 85  # the first two as in rules/alerts.yml


def dashboard() -> Json:
    return frame.dashboard(
        frame.INSTANCE,
        "transcriptd / Instance and GPU",
        "Which instance is ill, and whether it is the device, the runner or the machine.",
        [
            row("Which instance is ill?"),
            _instances(),
            row("Is the device well?"),
            *_device(),
            row("Does it keep a runner?"),
            *_runner(),
            row("Is the machine well?"),
            *_machine(),
        ],
        by_instance=True,
    )


def _instances() -> Json:
    def of(metric: str) -> str:
        return f"max by (instance) ({metric}{{{S}}})"

    there = f" and on (instance) up{{{S}}}"  # what has ended still has a past
    this = link(
        "This instance alone", f"/d/{frame.INSTANCE}?var-environment=${{environment}}&var-instance=${{__value.raw}}"
    )
    columns = [
        Column("instance", "Instance", links=(this,)),
        Column("Value #A", "Scrape", named=UP, width=80),
        Column("Value #B", "Runner", named=STATES, width=90),
        Column("asr_model", "Model"),
        Column("device_name", "Device"),
        Column("version", "Version", width=90),
        Column("Value #E", "Busy, 5 min", "percentunit", decimals=0, width=100),
        Column("Value #F", "In hand", "short", decimals=0, width=80),
        Column("Value #G", "Restarts, 1 h", "short", Steps(GREEN, ((1, YELLOW), (4, RED))), decimals=0, width=110),
        Column(
            "Value #H", "No poll for", "s", Steps(GREEN, ((60, YELLOW), (STALL_SECONDS, RED))), decimals=0, width=110
        ),
        Column(
            "Value #I", "Clock off by", "s", Steps(GREEN, ((5, YELLOW), (SKEW_SECONDS, RED))), decimals=1, width=110
        ),
        Column("Value #J", "Running for", "s", decimals=0, width=110),
    ]
    return table(
        "Instances",
        "One line each, as of now. Scrape and runner first: an instance that is silent or keeps restarting its runner "
        "is replaced, not mended. Of several devices the runner that is lost is shown, else one that works. An instance "
        "without model has not loaded one yet.",
        [
            of("up"),
            f"max by (instance) ({STATE})",
            f"max by (instance, asr_model, device_name) (transcriptd_runner_info{{{S}}})",
            f"max by (instance, version) (transcriptd_build_info{{{S}}})",
            of("instance:transcriptd_busy:ratio_rate5m") + there,
            of("transcriptd_jobs_in_flight"),
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
            "Share of NVML's sample period in which a kernel ran. Low while the runner is busy: it waits for data or the CPU.",
            Query(f"transcriptd_gpu_utilisation_ratio{{{S}}}", gpu),
            unit="percentunit",
            most=1,
            width=6,
        ),
        graph(
            "GPU memory",
            "Share in use, by everyone. At the line a long recording may run out of it: `out_of_memory` among the failures.",
            Query(f"transcriptd_gpu_memory_used_bytes{{{S}}} / transcriptd_gpu_memory_size_bytes{{{S}}}", gpu),
            unit="percentunit",
            most=1,
            steps=Steps(GREEN, ((0.95, RED),), line=True),
            width=6,
        ),
        graph(
            "GPU temperature",
            "Above the line most data-centre GPUs begin to slow down; their datasheet has the number.",
            Query(f"transcriptd_gpu_temperature_celsius{{{S}}}", gpu),
            unit="celsius",
            least=None,
            steps=Steps(GREEN, ((HOT_CELSIUS, RED),), line=True),
            width=6,
        ),
        graph(
            "GPU errors",
            "Xid errors since the start, by number, and queries of NVML that fail. None is good. 48, 63, 64, 74, 79, 92, 94, "
            "95, 119 are the hardware or its driver: replace the instance.",
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
            "Of each device. Starting again and again: models do not load, or the process dies. Defunct: the device is given up; "
            "with the last one the daemon ends with status 70.",
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
            "host: resident. device: used by everyone, after each job; 0 without a GPU. A steady rise is a leak; the runner is replaced in time.",
            Query(f"transcriptd_runner_memory_bytes{{{S}}}", "{{instance}}, {{device}}, {{where}}"),
            unit="bytes",
        ),
        graph(
            "Busy share",
            "Share of the last 5 minutes in which the runner had a job; of several devices the mean.",
            Query(f"instance:transcriptd_busy:ratio_rate5m{{{S}}}", "{{instance}}"),
            unit="percentunit",
            most=1,
        ),
        graph(
            "Time to load the models",
            "Of the runner that serves now. Minutes more than usual: the disk or the hub is slow.",
            Query(f"transcriptd_model_load_seconds{{{S}}}", "{{instance}}, {{device}}"),
            unit="s",
        ),
        graph(
            "Interruptions announced",
            "By instance and kind; the instance drains and leaves.",
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
            "Lateness of the poller",
            "How late its event loop ran what was due, 99 %. From a second on heartbeats suffer: the CPU is starved, or the loop is blocked.",
            Query(
                f"histogram_quantile(0.99, sum by (instance, le) (rate(transcriptd_event_loop_lag_seconds_bucket{{{S}}}[$__rate_interval]))) >= 0",
                "{{instance}}",
            ),
            unit="s",
            steps=Steps(GREEN, ((1, RED),), line=True),
        ),
        graph(
            "Receive overdue",
            "How long a receive has been due and none succeeded. At the line readiness fails and systemd restarts the daemon.",
            Query(f"transcriptd_poll_stalled_seconds{{{S}}}", "{{instance}}"),
            unit="s",
            steps=Steps(GREEN, ((STALL_SECONDS, RED),), line=True),
            links=[runbook("TranscriptdNotPolling")],
        ),
        graph(
            "Clock",
            "The local clock minus that of SQS. From 5 minutes on AWS refuses every call.",
            Query(f"transcriptd_clock_skew_seconds{{{S}}}", "{{instance}}"),
            unit="s",
            least=None,
            steps=Steps(RED, ((-SKEW_SECONDS, GREEN), (SKEW_SECONDS, RED)), line=True),
            links=[runbook("TranscriptdClockSkew")],
        ),
        graph(
            "Scratch disk",
            "Room there, and the floor below which nothing is received.",
            Query(f"transcriptd_scratch_free_bytes{{{S}}}", "{{instance}}"),
            Query(f"max(transcriptd_scratch_min_free_bytes{{{S}}})", "floor", RED),
            unit="bytes",
            links=[runbook("TranscriptdScratchDiskLow")],
        ),
        graph(
            "Memory of the poller",
            "Resident; it should stay as it was an hour after the start.",
            Query(f'process_resident_memory_bytes{{job="transcriptd", {S}}}', "{{instance}}"),
            unit="bytes",
            steps=PLAIN,
        ),
        graph(
            "Instance metadata failing",
            "Rounds in which EC2's metadata did not answer: interruptions would not be seen.",
            Query(
                f"sum by (instance) (increase(transcriptd_metadata_failures_total{{{S}}}[$__rate_interval]))",
                "{{instance}}",
            ),
            unit="short",
            bars=True,
            steps=Steps(GREEN, ((1, ORANGE),)),
        ),
    ]
