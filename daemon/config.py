"""Settings: declared only here, read once from the environment and validated together.

docs/configuration.md is generated from this module; a test fails if they differ.
"""

import difflib
import os
import socket
import tempfile
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import NoDecode, SettingsConfigDict

from daemon.bucket_settings import BucketSettings, Names
from daemon.credential_files import CredentialSettings
from daemon.errors import ConfigError
from daemon.profile_settings import Profiles
from daemon.queue_settings import QueueSettings
from daemon.schema.catalog import MODELS
from daemon.schema.device_names import check_device_names
from daemon.schema.options import Format, PersonalData
from daemon.settings_rules import MAX_LEASE_SECONDS as MAX_LEASE_SECONDS
from daemon.settings_rules import RULES, Rule
from daemon.tenant_settings import TenantSettings
from daemon.webhook_settings import WebhookSettings

GIB, HOUR = 1024**3, 3600.0

# Settings that are lists; in the environment, items are separated by spaces or commas.
LISTS = (
    "queue_url dlq_url queue_weights queue_visibility_timeout_seconds input_buckets output_buckets output_prefixes "
    "models devices unpadded_models alignment_models webhook_hosts http_hosts outbox_retry_schedule_seconds "
    "formats redact profanity_words webhook_secret metrics_tenants"
).split()


class Settings(QueueSettings, BucketSettings, WebhookSettings, TenantSettings, CredentialSettings):
    """Settings from environment variables with the prefix TRANSCRIPTD_, and a few well-known names without it."""

    model_config = SettingsConfigDict(
        env_prefix="TRANSCRIPTD_", env_ignore_empty=True, frozen=True, extra="forbid", populate_by_name=True
    )

    # Storage
    input_buckets: Names = Field(
        ("*",), description="buckets that jobs may read from; with `*`, only the instance role limits them"
    )
    profiles: Profiles = Field(
        (),
        description="path of a TOML file with profiles, for notifications of S3 and messages that name one (publishing.md)",
    )
    storage_timeout_seconds: float = Field(
        30,
        gt=0,
        description="timeout of an S3 call, and maximum pause within a response; a failed call is attempted four times in total",
    )
    checkpoint_after_seconds: float = Field(
        10,
        ge=0,
        description="checkpoints are uploaded only for jobs that have run at least this long; shorter ones are repeated",
    )
    checkpoint_tag: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.:/+@-]{1,128}=[A-Za-z0-9_.:/+@-]{1,256}$",
        description="S3 tag `key=value` for objects that only an unfinished job needs, so that a lifecycle rule can expire them; needs s3:PutObjectTagging",
    )
    status_seconds: float = Field(10, gt=0, description="minimum time between updates of a running job's status.json")
    cancel_poll_seconds: float = Field(
        10, gt=0, description="interval in which a running job looks for a request to cancel it"
    )
    max_input_bytes: int = Field(5 * GIB, gt=0, description="maximum size of a job's input object")
    max_media_seconds: float = Field(
        6 * HOUR,
        gt=0,
        description="maximum length of a recording, or of the part that a job names; the lengths of split channels are added up",
    )
    incomplete_media: Literal["warn", "fail"] = Field(
        "warn", description="`fail` dead-letters a recording that cannot be read to its end; `warn` adds a warning"
    )
    scratch_dir: Path = Field(
        Path(tempfile.gettempdir()) / "transcriptd",
        description="directory for the files of running jobs; cleaned at start",
    )
    min_free_bytes: int = Field(2 * GIB, ge=0, description="free scratch space below which receiving pauses")

    # Pipeline
    model: str = Field(
        "large-v3",
        description="default Whisper model: a faster-whisper name, hub ID or folder, or `embedded`, which is Whisper `base` from Python packages and needs no hub; loaded at start-up",
    )
    models: Names = Field(
        MODELS, description="further models that jobs may request: names, hub IDs, folders, or `embedded`"
    )
    max_loaded_models: int = Field(2, ge=1, description="Whisper models in memory; the least recently used is unloaded")
    devices: Names = Field(
        ("auto",),
        description="devices to run models on, with one runner process each: `auto` uses every GPU, or the CPU if there is none; `cuda` uses every GPU and requires one; `cuda:0,cuda:1` uses these GPUs; `cpu` uses the CPU, `cpu,cpu` with two runners",
    )
    compute_type: str = Field("auto", description="CTranslate2 type; `auto` is float16 on CUDA, int8 on a CPU")
    batch_size: int = Field(16, ge=1, le=256, description="number of 30 s chunks that Whisper decodes at once")
    unpadded_models: Names = Field(
        (),
        description="names of Whisper models that decode short chunks without padding to 30 s, and again with padding if the "
        "result is uncertain; faster, but measure each model first (performance.md)",
    )
    cpu_threads: int = Field(
        0, ge=0, description="cores per runner, which work independently on a CPU; 0 divides all cores evenly"
    )
    diarize: bool = Field(True, description="whether to label speakers, unless the job sets it")
    diarization_model: str = Field(
        "auto",
        description="name or folder of a pyannote pipeline, or `embedded`; `auto` is pyannote/speaker-diarization-community-1 if HF_TOKEN is set, otherwise `embedded`",
    )
    alignment_models: Names = Field(
        (), description="wav2vec2 models as `language=name-or-folder`; they override whisperx's own table"
    )
    weights_manifest: Path | None = Field(
        None,
        description="file with the revisions and SHA-256 of further pinned models, or of others in place of the packaged pins; written by `transcriptd models pin` (models.md)",
    )
    require_pinned_weights: bool = Field(False, description="refuse models from the hub that are not pinned")
    min_speakers: int = Field(2, ge=1, description="fewest speakers expected in a recording")
    max_speakers: int = Field(6, ge=1, description="most speakers expected in a recording")
    formats: Annotated[tuple[Format, ...], NoDecode] = Field(("json", "md"), description="default output formats")
    redact: Annotated[tuple[PersonalData, ...], NoDecode] = Field(
        (),
        description="personal data to remove from every output, unless the job sets it: email, phone, card, iban, ssn, url",
    )
    profanity: Literal["keep", "mask"] = Field(
        "keep", description="`mask` writes profane words as `d***`, unless the job sets it"
    )
    profanity_words: Names = Field(
        tuple(
            "asshole* bastard* bitch* bullshit* cocksuck* cunt* *fuck* motherf* nigger* prick pricks shit shits shitt* "
            "slut* twat* wank* whore*".split()
        ),
        description="profane words: whole words, case-insensitive; `*` matches any letters",
    )
    job_timeout_seconds: float = Field(6 * HOUR, gt=0, description="time limit for a job, from its receive")
    pipeline: str = Field(
        "daemon.pipeline.whisperx_pipeline:WhisperXPipeline",
        description="class that the runner process runs; change it only to use your own pipeline",
    )

    # Runner
    runner_start_timeout_seconds: float = Field(
        900, gt=0, description="time limit for the runner to load its models, including downloads"
    )
    runner_start_attempts: int = Field(
        3, ge=1, description="consecutive failed starts before a device is given up; without devices, the daemon exits"
    )
    runner_stall_seconds: float = Field(600, gt=0, description="a runner without progress for this long is replaced")
    runner_max_jobs: int = Field(
        0, ge=0, description="number of jobs after which the runner is replaced, as a remedy for leaks; 0 disables"
    )
    runner_max_growth_bytes: int = Field(
        8 * GIB, gt=0, description="the runner is replaced when its host or device memory has grown by more than this"
    )
    runner_restart_base_seconds: float = Field(
        1, gt=0, description="backoff before a failed runner is replaced; doubles with each consecutive failure"
    )
    max_audio_in_flight_seconds: float = Field(
        8 * HOUR, gt=0, description="maximum audio in the runner, at up to 0.75 GiB an hour; other jobs wait on disk"
    )

    # Decoder
    decode_timeout_seconds: float = Field(
        1800, gt=0, description="limit on wall time and CPU time to decode a recording"
    )
    decode_memory_bytes: int = Field(
        2 * GIB,
        gt=0,
        description="address space limit of a decoder process; as many run at once as half of the memory holds, at most one per core",
    )
    allow_weak_sandbox: bool = Field(
        False,
        description="start although the kernel cannot fully confine the decoders of untrusted media and the runners (operations.md); without it, the daemon exits",
    )

    # Host
    host: Literal["none", "ec2"] = Field(
        "none",
        description="`ec2` polls the instance metadata for interruptions and calls the instance's Auto Scaling group",
    )
    imds_url: str = Field(
        "http://169.254.169.254",
        validation_alias=AliasChoices("imds_url", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        description="URL of the EC2 instance metadata service; only IMDSv2 is used",
    )
    interruption_poll_seconds: float = Field(5, gt=0, le=30, description="interval of metadata polls")
    autoscaling_group: str | None = Field(None, description="name of the Auto Scaling group of this instance")
    launch_hook: str | None = Field(
        None, description="the group's launch hook; completed with CONTINUE once models are loaded, else with ABANDON"
    )
    termination_hook: str | None = Field(
        None, description="the group's termination hook; extended while the daemon drains, completed at the end"
    )
    hook_heartbeat_seconds: float = Field(
        60, gt=0, description="interval of the termination hook's heartbeats; keep it well below the hook's timeout"
    )
    idle_exit_seconds: float = Field(
        0, ge=0, description="terminate this instance and shrink its group after this long without a job; 0 disables"
    )
    instance_price_per_hour: float = Field(
        0, ge=0, description="hourly price of the instance, in any currency, for the cost metrics; 0 if unknown"
    )
    max_device_failures: int = Field(
        3,
        ge=1,
        description="device faults without a finished job between them before a device is given up; when no device is left, the instance is given up",
    )

    # Traces
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$",  # no credentials: the status page shows it
        description="URL of an OpenTelemetry collector, such as `http://127.0.0.1:4318`; spans of each delivery are sent to its path `/v1/traces` as OTLP over HTTP; without it, tracing is off",
    )
    otlp_headers: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("otlp_headers", "OTEL_EXPORTER_OTLP_HEADERS"),
        description="headers for the collector, such as an API key: `name=value` separated by commas, values percent-encoded",
    )
    trace_sample_ratio: float = Field(
        1,
        ge=0,
        le=1,
        description="share of the daemon's own traces that are recorded; a job with a `traceparent` follows its sampled flag",
    )

    # Process
    drain_timeout_seconds: float = Field(
        300,
        ge=0,
        description="time for jobs to finish after SIGTERM; unfinished jobs are released; 8 by default for process 1 of a container, which has 10 s",
    )
    http_host: str = Field("127.0.0.1", description="address of the status page, /metrics, /healthz and /readyz")
    http_hosts: Names = Field(
        (),
        description="further host names in the URLs of clients; without them: IP addresses, localhost and this machine's name; `*` allows all",
    )
    http_port: int = Field(9464, ge=0, le=65535, description="HTTP port; 0 selects a free port and logs it")
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="name of this daemon in logs, manifests and dead letters; default: the host name",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level of logged messages"
    )
    debug: bool = Field(False, validation_alias=AliasChoices("debug", "DEBUG"), description="same as log level debug")
    hf_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("hf_token", "HF_TOKEN"),
        description="Hugging Face token for gated models; passed only to the runner",
    )

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_device_names(value)
        return value

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        if broken := [_line(rule) for rule in RULES if rule.is_broken(self)]:
            raise ValueError("\n  ".join(broken))
        return self

    @property
    def secrets(self) -> list[str]:
        """Values that must never be shown: signing secrets, tokens, and AWS credentials from the environment."""
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
    """Load the settings from the environment, with `given` taking precedence. Rejects unknown variables.

    Raises ConfigError with one line per problem and without secrets.
    """
    known = {variable(name) for name in Settings.model_fields}
    unknown = []
    for name in sorted(os.environ):
        # Otherwise a misspelt setting would silently have its default.
        if name.upper().startswith("TRANSCRIPTD_") and name.upper() not in known and os.environ[name]:
            nearest = difflib.get_close_matches(name.upper(), known, n=1)
            unknown.append(f"{name} is not a setting" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return _read(given, unknown)


def read_settings(**given: Any) -> Settings:
    """Load the settings as load_settings does, but ignore unknown variables."""
    return _read(given, [])


def _read(given: dict[str, Any], problems: list[str]) -> Settings:
    """Return the settings. Raises ConfigError with these problems and all that the settings have."""
    settings, replaced = None, dict[str, Any]()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for problem in _problems(error):
            name = "_".join(str(part) for part in problem["loc"])
            text = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{variable(name)}: {text}" if name else text)
            replaced |= _valid_value(str(problem["loc"][0])) if name else {}
        if replaced:
            problems += _broken_rules({**given, **replaced}, without=replaced.keys())
    if settings is None or problems:
        raise ConfigError("invalid settings:\n  " + "\n  ".join(problems)) from None
    return settings


def _broken_rules(given: dict[str, Any], without: Set[str]) -> list[str]:
    """Return a line for each broken rule. Other problems make the rules impossible to check."""
    try:
        Settings(**given)
    except ValidationError as error:
        lines = "\n  ".join(problem["msg"] for problem in _problems(error))
        return [line for rule in RULES if not without & set(rule.names) and (line := _line(rule)) in lines]
    return []


def _problems(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False, include_context=False)


def _line(rule: Rule) -> str:
    return f"{', '.join(map(variable, rule.names))}: {rule.message}"


def _valid_value(loc: str) -> dict[str, Any]:
    """Return a valid value for the setting at an error's location, or nothing if it is none."""
    for name, field in Settings.model_fields.items():
        if loc in (name, variable(name)):
            return {name: f"https://{name}" if field.is_required() else field.get_default(call_default_factory=True)}
    return {}


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    field = Settings.model_fields.get(name)
    alias = field.validation_alias if field else None
    if isinstance(alias, AliasChoices):
        return str(alias.choices[-1])
    return name if name.isupper() else f"TRANSCRIPTD_{name.upper()}"
