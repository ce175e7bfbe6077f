"""Settings: read once from the environment, validated together, declared here and nowhere else.

docs/configuration.md is generated from this module and a test fails when they differ.
"""

import difflib
import os
import socket
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from daemon.catalog import MODELS
from daemon.devices import check_names
from daemon.errors import ConfigError

PersonalData = Literal["email", "phone", "card", "iban", "ssn", "url"]
Format = Literal["json", "md", "txt", "srt", "vtt", "ass", "tsv", "html"]

GIB = 1024**3
HOUR = 3600.0

# AWS ends a lease 12 h after the receive, whatever is extended; a job must be over well before.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
MAX_LEASE_SECONDS = 12 * HOUR

# Comma-separated in the environment: `a,b` rather than JSON.
Names = Annotated[tuple[str, ...], NoDecode]


# Settings that are lists: in the environment, with spaces or commas between.
LISTS = (
    "input_buckets output_buckets models devices short_context_models alignment_models webhook_hosts webhook_schedule_seconds "
    "formats redact profanity_words webhook_secret"
).split()


class Settings(BaseSettings):
    """Environment variables with the prefix TRANSCRIPTD_, and a few well-known names without it."""

    model_config = SettingsConfigDict(env_prefix="TRANSCRIPTD_", frozen=True, extra="forbid", populate_by_name=True)

    # Queue
    queue_url: str = Field(description="URL of the SQS queue that jobs arrive on")
    dlq_url: str = Field(description="URL of the dead-letter queue; failed jobs go there with their reason")
    visibility_timeout_seconds: float = Field(
        120, ge=1, le=MAX_LEASE_SECONDS, description="length of the lease taken on a message and of each extension"
    )
    heartbeat_seconds: float = Field(
        30, gt=0, description="period of lease extensions; at most a third of the visibility timeout"
    )
    receive_wait_seconds: int = Field(20, ge=0, le=20, description="long-poll time of a receive")
    queue_timeout_seconds: float = Field(
        10, gt=0, description="time for SQS to answer a call, besides the long poll of a receive"
    )
    queue_backoff_max_seconds: float = Field(
        30, gt=0, description="longest back-off between receives while SQS fails; the first is at most 1 s, with jitter"
    )
    poll_stall_seconds: float = Field(
        180,
        gt=0,
        description="without a successful receive for so long, while one is due, readiness fails and systemd's watchdog is not fed",
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="failures of a job's own with a transient error, before it is dead-lettered; keep the queue's maxReceiveCount well above, since interruptions count there",
    )
    quarantine_deliveries: int = Field(
        3,
        ge=1,
        le=100,
        description="deliveries that died with their host, before the job is dead-lettered as a suspect",
    )
    retry_base_seconds: float = Field(
        10, gt=0, description="back-off before the second attempt; doubles with each one, with full jitter"
    )
    retry_max_seconds: float = Field(900, gt=0, description="longest back-off between attempts")
    jobs_in_flight: int = Field(
        16, ge=1, le=32, description="most messages held at once; fewer if they fill the devices (architecture.md)"
    )

    # Storage
    input_buckets: Names = Field(
        ("*",), description="buckets that jobs may read from; `*` leaves it to the instance role"
    )
    output_bucket: str | None = Field(None, description="bucket for results when a job names none")
    output_buckets: Names = Field(
        (), description="further buckets that jobs may write to; `*` leaves it to the instance role"
    )
    output_prefix: str = Field("transcripts/", description="key prefix for results when a job names none")
    storage_timeout_seconds: float = Field(
        30,
        gt=0,
        description="time for S3 to answer a call, and the longest pause within an answer; a call that fails is tried four times",
    )
    checkpoint_after_seconds: float = Field(
        10,
        ge=0,
        description="parts of a job are stored once it has been with a runner for so long; before, they are done again",
    )
    checkpoint_tag: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.:/+@-]{1,128}=[A-Za-z0-9_.:/+@-]{1,256}$",
        description="S3 tag `key=value` on what only an unfinished job needs, for a lifecycle rule to expire; needs s3:PutObjectTagging",
    )
    max_input_bytes: int = Field(5 * GIB, gt=0, description="largest object a job may name")
    max_media_seconds: float = Field(
        6 * HOUR, gt=0, description="longest recording; all channels of one that is split count together"
    )
    scratch_dir: Path = Field(
        Path(tempfile.gettempdir()) / "transcriptd",
        description="where jobs keep their files while they run; swept at start",
    )
    min_free_bytes: int = Field(
        2 * GIB, ge=0, description="no message is received while the scratch disk has less room"
    )

    # Pipeline
    model: str = Field(
        "large-v3", description="default Whisper model: a faster-whisper name, hub id or folder; resident from start-up"
    )
    models: Names = Field(
        MODELS, description="models that jobs may ask for besides the default: names, hub ids or folders"
    )
    models_resident: int = Field(
        2, ge=1, description="Whisper models kept in memory; the least recently used one leaves"
    )
    devices: Names = Field(
        ("auto",),
        description="what the models run on, a runner process for each: `auto` is every GPU, else the CPU; `cuda` every GPU, and no start without one; `cuda:0,cuda:1` these; `cpu`, or `cpu,cpu` for two runners on it",
    )
    compute_type: str = Field("auto", description="CTranslate2 type; `auto` is float16 on CUDA, int8 on CPU")
    batch_size: int = Field(16, ge=1, le=256, description="30 s chunks that Whisper decodes at once")
    short_context_models: Names = Field(
        (),
        description="Whisper models, by name, whose encoder hears a short chunk without Whisper's padding to 30 s, and with it "
        "where the result is unsure: quicker, but to be measured for each model first (performance.md)",
    )
    cpu_threads: int = Field(
        0, ge=0, description="cores for each runner, on a CPU with different work in each; 0 shares out all"
    )
    diarize: bool = Field(True, description="label speakers when a job does not say")
    diarization_model: str = Field(
        "auto",
        description="a pyannote pipeline by name or folder, or `embedded`; `auto` is pyannote/speaker-diarization-community-1 with HF_TOKEN, else `embedded`",
    )
    alignment_models: Names = Field(
        (), description="wav2vec2 models as `language=name-or-folder`, before whisperx's own table"
    )
    min_speakers: int = Field(2, ge=1, description="default lower bound on speakers")
    max_speakers: int = Field(6, ge=1, description="default upper bound on speakers")
    formats: Annotated[tuple[Format, ...], NoDecode] = Field(("json", "md"), description="outputs if a job names none")
    redact: Annotated[tuple[PersonalData, ...], NoDecode] = Field(
        (),
        description="personal data to take out of every output when a job does not say: email, phone, card, iban, ssn, url",
    )
    profanity: Literal["keep", "mask"] = Field(
        "keep", description="`mask` writes profane words as `d***`, when a job does not say"
    )
    profanity_words: Names = Field(
        tuple(
            "asshole* bastard* bitch* bullshit* cocksuck* cunt* *fuck* motherf* nigger* prick pricks shit shits shitt* "
            "slut* twat* wank* whore*".split()
        ),
        description="what counts as profane: whole words, whatever their case; `*` stands for any letters",
    )
    job_timeout_seconds: float = Field(6 * HOUR, gt=0, description="longest time a job may take from its receive")
    pipeline: str = Field(
        "daemon.pipeline.whisperx_pipeline:WhisperXPipeline",
        description="the class that the runner process serves; leave it unless you write your own",
    )

    # Runner
    runner_start_timeout_seconds: float = Field(
        900, gt=0, description="time for the runner to load its models, downloads included"
    )
    runner_start_attempts: int = Field(
        3, ge=1, description="failed starts in a row before a device is given up; with the last device the daemon ends"
    )
    runner_stall_seconds: float = Field(600, gt=0, description="a runner without progress for this long is replaced")
    runner_max_jobs: int = Field(
        0, ge=0, description="jobs after which the runner is replaced, as a remedy for leaks; 0 never"
    )
    runner_max_growth_bytes: int = Field(
        8 * GIB, gt=0, description="growth of the runner's memory, on host or device, after which it is replaced"
    )
    runner_restart_base_seconds: float = Field(
        1, gt=0, description="back-off before a dead runner is replaced; doubles with each failure in a row"
    )
    audio_in_flight_seconds: float = Field(
        8 * HOUR, gt=0, description="audio in the runner at once, at up to 0.75 GiB an hour; the rest waits on disk"
    )

    # Decoder
    decode_timeout_seconds: float = Field(1800, gt=0, description="wall and CPU time for decoding one recording")
    decode_memory_bytes: int = Field(2 * GIB, gt=0, description="address space of the decoder process")

    # Webhooks
    webhook_url: str | None = Field(
        None,
        validation_alias=AliasChoices("webhook_url", "WEBHOOK_URL"),
        description="where job events go when a job names no webhook",
    )
    webhook_secret: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        validation_alias=AliasChoices("webhook_secret", "WEBHOOK_SECRET"),
        description="signing secrets `whsec_…`, separated by spaces or commas; every one signs, so that a key can be rotated",
    )
    webhook_hosts: Names = Field(
        (), description="hosts that a job's webhook URL may name besides WEBHOOK_URL; `*` allows every public host"
    )
    webhook_allow_http: bool = Field(
        False,
        description="allow plain http and private addresses for hosts in the allow-list: for tests and closed networks",
    )
    webhook_attempts: int = Field(5, ge=1, description="tries of one event")
    webhook_backoff_min_seconds: float = Field(2, gt=0, description="first back-off between tries; doubles")
    webhook_backoff_max_seconds: float = Field(30, gt=0, description="longest back-off between tries")
    webhook_timeout_seconds: float = Field(15, gt=0, description="time for a receiver to answer")
    webhook_progress_seconds: float = Field(10, gt=0, description="least time between two job.progress events of a job")
    outbox_url: str | None = Field(
        None,
        description="URL of a standard SQS queue where a job's final event waits when its tries are spent; without one it is given up",
    )
    webhook_schedule_seconds: Annotated[tuple[float, ...], NoDecode] = Field(
        (5, 300, 1800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
        min_length=1,
        description="when an event in the outbox is tried again, counted from its first try; after the last one it is given up",
    )

    # Host
    host: Literal["none", "ec2"] = Field(
        "none",
        description="`ec2` watches the instance's metadata for interruptions and speaks to its Auto Scaling group",
    )
    imds_url: str = Field(
        "http://169.254.169.254",
        validation_alias=AliasChoices("imds_url", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        description="address of EC2's instance metadata; version 2 alone is used",
    )
    interruption_poll_seconds: float = Field(5, gt=0, le=30, description="how often the metadata are looked at")
    autoscaling_group: str | None = Field(None, description="the Auto Scaling group that this instance belongs to")
    launch_hook: str | None = Field(
        None, description="the group's launch hook: continued once the models are loaded, abandoned if they cannot be"
    )
    termination_hook: str | None = Field(
        None, description="the group's termination hook: kept alive while the daemon drains, completed at the end"
    )
    hook_heartbeat_seconds: float = Field(
        60, gt=0, description="period of the termination hook's heartbeats; well below the hook's timeout"
    )
    idle_exit_seconds: float = Field(
        0, ge=0, description="without a job for so long the instance ends itself and its group shrinks; 0 never"
    )
    instance_price_per_hour: float = Field(
        0, ge=0, description="what the instance costs an hour, in any currency, for the cost metrics; 0 is unknown"
    )
    device_failures: int = Field(
        3,
        ge=1,
        description="faults of a device without a finished job between them, after which it is given up; with the last device the instance is",
    )

    # Traces
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$",  # no place for a secret: the status page shows it
        description="address of an OpenTelemetry collector, such as `http://127.0.0.1:4318`: every delivery is traced, its spans sent to `/v1/traces` below it as OTLP over HTTP; without one nothing is recorded",
    )
    otlp_headers: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("otlp_headers", "OTEL_EXPORTER_OTLP_HEADERS"),
        description="what the collector asks for, such as a key: `name=value` separated by commas, values percent-encoded",
    )
    trace_sample_ratio: float = Field(
        1,
        ge=0,
        le=1,
        description="share of the traces begun here that are recorded; for a job with a `traceparent` its sampled flag decides",
    )

    # Process
    drain_timeout_seconds: float = Field(
        300, ge=0, description="time for jobs to finish after SIGTERM; what is left is released"
    )
    http_host: str = Field("127.0.0.1", description="address of the status page, /metrics, /healthz and /readyz")
    http_port: int = Field(9464, ge=0, le=65535, description="port of the same; 0 takes a free one and logs it")
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="names this daemon in logs, manifests and dead letters; default: the host name",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )
    debug: bool = Field(False, validation_alias=AliasChoices("debug", "DEBUG"), description="same as log level debug")
    hf_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("hf_token", "HF_TOKEN"),
        description="Hugging Face token for gated models, passed to the runner alone",
    )

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_names(value)
        return value

    @field_validator("output_prefix")
    @classmethod
    def _end_prefix(cls, value: str) -> str:
        return value if value == "" or value.endswith("/") else value + "/"

    @model_validator(mode="after")
    def _cross_check(self) -> Self:
        """Rules that bind several settings, each refused with the rule in words."""
        if self.heartbeat_seconds > self.visibility_timeout_seconds / 3:
            raise ValueError(
                "heartbeat_seconds must be at most a third of visibility_timeout_seconds, so that two extensions may fail"
            )
        if self.receive_wait_seconds >= self.visibility_timeout_seconds / 2:
            raise ValueError(
                "receive_wait_seconds must be less than half of visibility_timeout_seconds: a lease may be as old as the receive that brought it"
            )
        receive_seconds = self.receive_wait_seconds + self.queue_timeout_seconds
        if self.poll_stall_seconds < receive_seconds + self.queue_backoff_max_seconds:
            raise ValueError(
                "poll_stall_seconds must be at least receive_wait_seconds + queue_timeout_seconds + "
                "queue_backoff_max_seconds: a receive and a back-off must fit"
            )
        if self.job_timeout_seconds > MAX_LEASE_SECONDS - 1800:
            raise ValueError("job_timeout_seconds must stay half an hour below 12 h, where SQS ends every lease")
        if self.autoscaling_group is not None and self.host != "ec2":
            raise ValueError("autoscaling_group needs host=ec2: the group knows the instance by its metadata")
        if self.autoscaling_group is None and (self.launch_hook or self.termination_hook or self.idle_exit_seconds):
            raise ValueError("launch_hook, termination_hook and idle_exit_seconds need autoscaling_group")
        if 0 < self.idle_exit_seconds < 2 * self.receive_wait_seconds:
            raise ValueError("idle_exit_seconds must be at least two receives long: one may come back empty by chance")
        if self.min_speakers > self.max_speakers:
            raise ValueError("min_speakers must not be larger than max_speakers")
        if self.queue_url == self.dlq_url:
            raise ValueError("queue_url and dlq_url must be two queues")
        if self.outbox_url in (self.queue_url, self.dlq_url):
            raise ValueError("outbox_url must be a queue of its own, neither queue_url nor dlq_url")
        if any(later <= earlier for earlier, later in pairwise((0, *self.webhook_schedule_seconds))):
            raise ValueError("webhook_schedule_seconds must be positive and rise")
        if (self.webhook_url is not None or self.webhook_hosts) and not self.webhook_secret:
            raise ValueError("WEBHOOK_URL and TRANSCRIPTD_WEBHOOK_HOSTS need WEBHOOK_SECRET: events are always signed")
        if self.webhook_url is not None and urlsplit(self.webhook_url).scheme not in (
            ("https", "http") if self.webhook_allow_http else ("https",)
        ):
            raise ValueError(
                "WEBHOOK_URL must be https (or set TRANSCRIPTD_WEBHOOK_ALLOW_HTTP=true in a closed network)"
            )
        return self

    @property
    def secrets(self) -> list[str]:
        """What must be shown nowhere: the signing secrets, the tokens, and AWS's own in the environment."""
        signing = [secret.get_secret_value() for secret in self.webhook_secret]
        token = [self.hf_token.get_secret_value()] if self.hf_token else []
        headers = self.otlp_headers.get_secret_value().split(",") if self.otlp_headers else []
        keys = [header.partition("=")[2] for header in headers]
        aws = [os.environ.get(name, "") for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
        return [*signing, *(secret.removeprefix("whsec_") for secret in signing), *token, *keys, *aws]

    @property
    def logging_level(self) -> str:
        return "debug" if self.debug else self.log_level


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, but for those `given`.

    Raises ConfigError with one line per problem and no secret in it.
    """
    known = {variable(name) for name in Settings.model_fields}
    for name in sorted(os.environ):
        # A misspelt setting would otherwise be a default in silence.
        if name.upper().startswith("TRANSCRIPTD_") and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1)
            raise ConfigError(f"{name} is not a setting" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return read_settings(**given)


def read_settings(**given: Any) -> Settings:
    """Settings from the environment, but for those `given`. Raises ConfigError as load_settings does."""
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            name = "_".join(str(part) for part in problem["loc"])
            lines.append(
                f"{variable(name)}: {problem['msg'].removeprefix('Value error, ')}"
                if name
                else problem["msg"].removeprefix("Value error, ")
            )
        raise ConfigError("the settings cannot work:\n  " + "\n  ".join(lines)) from None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    field = Settings.model_fields.get(name)
    alias = field.validation_alias if field else None
    if isinstance(alias, AliasChoices):
        return str(alias.choices[-1])
    return name if name.isupper() else f"TRANSCRIPTD_{name.upper()}"
