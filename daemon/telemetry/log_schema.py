"""Schema of the log: every field with its meaning and unit. A name has the same meaning on every line.

docs/log.schema.json and the table of docs/logs.md are generated from this module.
"""

from dataclasses import dataclass
from typing import Any

NAMES: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
SECONDS_BY_NAME: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}


@dataclass(frozen=True, slots=True)
class Field:
    """A log field. `type` is a JSON Schema type; `schema` overrides it if the type is not specific enough."""

    type: str
    meaning: str
    schema: dict[str, Any] | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """JSON Schema of the field."""
        return self.schema or {"type": self.type}


def _choice(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


# On every line.
ALWAYS = {
    "timestamp": Field("string", "RFC 3339, UTC, with milliseconds", {"type": "string", "format": "date-time"}),
    "level": Field("string", "see above", _choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    "process": Field("string", "`poller` or `runner`", _choice("poller", "runner")),
    "logger": Field(
        "string", "the module that logged the line; names that do not begin with `transcriptd` are libraries"
    ),
    "event": Field("string", "what happened, as a constant text"),
}

# On every line about a job, as soon as they are known.
JOB = {
    "job_id": Field("string", "job ID from the message"),
    "message_id": Field("string", "SQS's ID of the message; a redriven message has a new ID"),
    "queue": Field("string", "name of the queue, as in TRANSCRIPTD_QUEUE_URL; `jobs` if it has none, and `outbox`"),
    "receive_count": Field("integer", "SQS's receive count of the message, including this delivery"),
    "tenant": Field("string", "MessageGroupId of the message; absent if it has none"),
    "trace_id": Field(
        "string",
        "trace ID of the delivery, 32 hexadecimal digits; present if the message has a `traceparent` or tracing is enabled",
    ),
}

# On the line `job finished`, some also on other lines.
SUMMARY = {
    "outcome": Field("string", "outcome of the delivery, as in `transcriptd_deliveries_total`"),
    "reason": Field(
        "string",
        "reason of the outcome: a code of errors.md, `published`, `rendered` or `duplicate`; on other lines why something ended or waits",
    ),
    "settled": Field("boolean", "whether the outcome call succeeded; if not, the message is redelivered"),
    "attempt": Field("integer", "number of the attempt, from 1; interruptions do not count"),
    "failed_in": Field("string", "the stage in which the job failed; null if it did not fail"),
    "duration_seconds": Field("number", "seconds from the receive to the end of the outcome call"),
    "queue_wait_seconds": Field("number", "seconds from the send of the message to this receive"),
    "stages_seconds": Field("object", "seconds of each finished stage, and of `settle`", SECONDS_BY_NAME),
    "runner_seconds": Field(
        "number", "seconds from handing the job to the runner until its result; some stages run in parallel"
    ),
    "audio_seconds": Field(
        "number", "duration of the recording, or of the part that the job names, in seconds, once known"
    ),
    "real_time_factor": Field(
        "number",
        "seconds of work in the runner's stages per second of audio; only if this delivery published the result",
    ),
    "input_bytes": Field("integer", "size of the input object in bytes, once known"),
    "output_bytes": Field("integer", "size of all published outputs in bytes"),
    "device_seconds": Field("number", "time that the job's stages had the device, in seconds"),
    "price": Field("number", "price of the device seconds; null if the price of the instance is unknown"),
    "model": Field("string", "the Whisper model of the job"),
    "language": Field("string", "language of the transcript"),
    "speakers": Field("integer", "number of speakers in the transcript"),
    "warnings": Field("array", "warning codes of the transcript", {"type": "array", "items": {"type": "string"}}),
    "checkpoints_restored": Field("integer", "checkpoints restored from an earlier delivery"),
    "checkpoints_kept": Field("integer", "checkpoints stored for a later delivery"),
    "checkpoints_failed": Field("integer", "checkpoints that could not be stored"),
    "webhook": Field(
        "string",
        "state of the final event's webhook: `delivered`, `stored` in the outbox, `pending`, `failed`, `refused`, `known` (delivered "
        "earlier), or `none` (no event required)",
    ),
    "event_bus": Field("string", "the same for the event bus, without `known`"),
    "error": Field(
        "string",
        "what went wrong; quotes at most a plain value or a name of a message, and only the exception type of an internal error",
    ),
}

OTHERS = {
    # failures
    "traceback": Field("string", "stack and type of an exception, without its message"),
    "detail": Field(
        "string",
        "details from another process; for a `library message`, its location in the library and its format string",
    ),
    "task": Field("string", "the part of the daemon that failed"),
    # outages
    "down_seconds": Field("number", "duration of the outage in seconds"),
    "failures": Field("integer", "failed attempts during the outage"),
    "suppressed": Field("integer", "number of earlier, shorter outages that were not logged, to limit the log volume"),
    "call": Field("string", "the name of an AWS call"),
    "queue_kind": Field("string", "`jobs`, `dead_letter` or `outbox`"),
    "receiver": Field("string", "host and port of a webhook receiver; never the rest of its URL"),
    "gpu": Field("string", "NVML's index of a GPU"),
    "remaining_seconds": Field("number", "seconds in which the daemon can still prove its lease on the message"),
    # progress
    "stage": Field("string", "the stage that a line is about"),
    "fraction": Field("number", "progress of the stage, 0 to 1"),
    "seconds": Field("number", "duration of the stage in seconds"),
    "checkpoint": Field("string", "the name of a checkpoint"),
    "warning": Field("string", "the code of the resulting warning on the job"),
    "key": Field("string", "the key of an S3 object"),
    # events
    "sink": Field("string", "where an event goes: `webhook` or `event_bus`"),
    "event_type": Field("string", "event type, such as `job.completed`"),
    "event_attempt": Field("integer", "number of attempts by this daemon, or of receives from the outbox"),
    "event_result": Field("string", "result of the attempt, or of the event"),
    "status": Field("integer", "HTTP status of the response of the receiver or of EventBridge"),
    "due": Field("string", "time of the next attempt, RFC 3339"),
    # the daemon and its processes
    "version": Field("string", "version of transcriptd"),
    "host": Field("string", "the address that the HTTP server listens on"),
    "port": Field("integer", "the port that the HTTP server listens on"),
    "signal": Field("string", "the name of a signal"),
    "again": Field("boolean", "whether this is a repeated request to stop"),
    "log_level": Field("string", "the new log level"),
    "jobs_in_flight": Field("integer", "messages that the daemon holds"),
    "timeout_seconds": Field("number", "time limit in seconds"),
    "clean": Field("boolean", "whether all jobs in progress were finished"),
    "events_undelivered": Field("integer", "events lost because the daemon stopped"),
    "idle_seconds": Field("number", "seconds without a job"),
    "directory": Field("string", "a path"),
    "runner_pid": Field("integer", "process ID of the runner"),
    "device": Field("string", "the device of the runner or of the job, named as in the setting: `cuda:0`, `cpu`"),
    "device_name": Field("string", "product name of the device"),
    "devices": Field("array", "all devices", {"type": "array", "items": {"type": "string"}}),
    "weights": Field("string", "a repository or a file of model weights"),
    "models": Field("object", "stage → model", NAMES),
    "load_seconds": Field("number", "time to load the models, in seconds"),
    "exit_code": Field("integer", "exit status of the runner; if negative, the number of a signal"),
    "jobs": Field("integer", "number of jobs that the runner process has finished"),
    "job_ids": Field(
        "array", "the jobs that the runner was working on", {"type": "array", "items": {"type": "string"}}
    ),
    "growth_bytes": Field("integer", "growth of the runner's memory since its start, in bytes"),
    "line": Field("string", "a line that the runner printed on standard output or standard error"),
    "xid": Field("integer", "NVIDIA's Xid error number"),
    # the instance
    "kind": Field("string", "`spot`, `termination` or `rebalance`"),
    "ends_at": Field("string", "announced end of the instance, RFC 3339"),
    "notice": Field("string", "content of the instance metadata"),
}

FIELDS = {**ALWAYS, **JOB, **SUMMARY, **OTHERS}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line. The fields of ALWAYS are required; all others may be absent or null."""
    optional = {
        name: {"anyOf": [field.shape, {"type": "null"}], "description": field.meaning}
        for name, field in {**JOB, **SUMMARY, **OTHERS}.items()
    }
    return {
        "type": "object",
        "properties": {name: {**field.shape, "description": field.meaning} for name, field in ALWAYS.items()}
        | optional,
        "required": list(ALWAYS),
        "additionalProperties": False,
    }
