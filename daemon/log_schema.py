"""What a log line may hold: every field once, with its meaning and unit.

docs/log.schema.json and the table of docs/logs.md are generated from this module. A name means the same on every line.
"""

from dataclasses import dataclass
from typing import Any

NAMES: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
SECONDS_BY_NAME: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}


@dataclass(frozen=True, slots=True)
class Field:
    """`type` is one of JSON Schema's; `schema` says more where a type alone is too little."""

    type: str
    meaning: str
    schema: dict[str, Any] | None = None

    @property
    def shape(self) -> dict[str, Any]:
        """Its JSON Schema."""
        return self.schema or {"type": self.type}


def _choice(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


# On every line.
ALWAYS = {
    "timestamp": Field("string", "RFC 3339, UTC, with milliseconds", {"type": "string", "format": "date-time"}),
    "level": Field("string", "see above", _choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    "process": Field("string", "`poller` or `runner`", _choice("poller", "runner")),
    "logger": Field("string", "the module that speaks; what does not begin with `transcriptd` is a library"),
    "event": Field("string", "what happened, in words that do not change"),
}

# On every line about a job, from where they are known.
JOB = {
    "job_id": Field("string", "as the message has it"),
    "message_id": Field("string", "SQS's id of the message; a redriven one has a new id"),
    "receive_count": Field("integer", "which receive of the message this delivery is, as SQS counts"),
    "trace_id": Field(
        "string",
        "the trace that the delivery belongs to, 32 hexadecimal digits; on messages that came with a `traceparent`, and on all where traces are on",
    ),
}

# Of the line `job finished`. Its fields that others have too stand below.
SUMMARY = {
    "outcome": Field("string", "what became of the message: as in `transcriptd_jobs_total`"),
    "reason": Field(
        "string", "why: a code of api.md, `published`, `duplicate`; on other lines why something ended or waits"
    ),
    "settled": Field("boolean", "whether the outcome could be carried out; if not, the message comes back"),
    "attempt": Field("integer", "which attempt of the job, from 1; interruptions do not count"),
    "failed_in": Field("string", "the stage in which it failed; null if it did not"),
    "duration_seconds": Field("number", "from the receive to the end of the outcome call"),
    "queue_wait_seconds": Field("number", "from the send of the message to this receive"),
    "stages_seconds": Field("object", "time of each stage that was finished, and of `settle`", SECONDS_BY_NAME),
    "runner_seconds": Field(
        "number", "from handing the job to the runner until its answer; some stages are done side by side"
    ),
    "audio_seconds": Field("number", "length of the recording, once it is known"),
    "real_time_factor": Field(
        "number", "seconds of work in the runner's stages for each second of audio; of jobs that were published now"
    ),
    "input_bytes": Field("integer", "size of the recording's object, once it is known"),
    "output_bytes": Field("integer", "size of all outputs that were published"),
    "model": Field("string", "the Whisper model that the job asked for"),
    "language": Field("string", "of the transcript"),
    "speakers": Field("integer", "in the transcript"),
    "warnings": Field("array", "codes of the transcript's warnings", {"type": "array", "items": {"type": "string"}}),
    "checkpoints_restored": Field("integer", "finished parts that were taken over from an earlier delivery"),
    "checkpoints_kept": Field("integer", "finished parts that were stored for a later delivery"),
    "checkpoints_failed": Field("integer", "finished parts that could not be stored"),
    "webhook": Field(
        "string",
        "the final event: `delivered`, `stored` in the outbox, `pending`, `failed`, `refused`, `known` to have arrived "
        "before; `none` was due or wanted",
    ),
    "error": Field(
        "string",
        "what went wrong; of a message it quotes a plain value or a name at most, of a fault of our own it is the kind alone",
    ),
}

OTHERS = {
    # faults
    "traceback": Field("string", "where an exception was raised and of what kind it is, without its own words"),
    "detail": Field(
        "string", "what another process says of it; of a `library message` the place in the library, and its pattern"
    ),
    "task": Field("string", "the part of the daemon that failed"),
    # outages
    "down_seconds": Field("number", "how long something did not work"),
    "failures": Field("integer", "failed tries meanwhile"),
    "untold": Field("integer", "shorter outages before this one that were not told, to bound the lines"),
    "call": Field("string", "the name of an AWS call"),
    "queue": Field("string", "`jobs`, `dead_letter` or `outbox`"),
    "receiver": Field("string", "host and port of a webhook receiver; never the rest of its URL"),
    "gpu": Field("string", "NVML's index of a GPU"),
    "remaining_seconds": Field("number", "time in which the message is still provably this daemon's"),
    # progress
    "stage": Field("string", "the stage that a line is about"),
    "fraction": Field("number", "how much of the stage is done, 0 to 1"),
    "seconds": Field("number", "what the stage took"),
    "checkpoint": Field("string", "the name of a finished part"),
    "warning": Field("string", "the code of the warning that the job gets for it"),
    "key": Field("string", "the key of an S3 object"),
    # webhooks
    "webhook_event": Field("string", "its type, such as `job.completed`"),
    "webhook_attempt": Field("integer", "tries of the event by this daemon, or its receives from the outbox"),
    "webhook_result": Field("string", "what became of the event"),
    "status": Field("integer", "the HTTP status that the receiver answered"),
    "due": Field("string", "when the next try is due, RFC 3339"),
    # the daemon and its processes
    "version": Field("string", "of transcriptd"),
    "host": Field("string", "the address that is listened on"),
    "port": Field("integer", "the port that is listened on"),
    "signal": Field("string", "the name of a signal"),
    "again": Field("boolean", "whether it was told to stop before"),
    "log_level": Field("string", "from now on"),
    "jobs_in_flight": Field("integer", "messages in hand"),
    "timeout_seconds": Field("number", "how long it may take"),
    "clean": Field("boolean", "whether everything in hand was finished"),
    "webhooks_undelivered": Field("integer", "events that were lost by stopping"),
    "idle_seconds": Field("number", "how long there was no job"),
    "directory": Field("string", "a path"),
    "runner_pid": Field("integer", "process id of the runner"),
    "device": Field(
        "string", "the device that a runner serves, or that a job is on, as the setting calls it: `cuda:0`, `cpu`"
    ),
    "device_name": Field("string", "its own name"),
    "devices": Field("array", "all of them", {"type": "array", "items": {"type": "string"}}),
    "models": Field("object", "stage → model", NAMES),
    "load_seconds": Field("number", "what loading the models took"),
    "exit_code": Field("integer", "exit status of the runner; negative is the number of a signal"),
    "jobs": Field("integer", "jobs that the runner process has done"),
    "job_ids": Field("array", "the jobs that it had in hand", {"type": "array", "items": {"type": "string"}}),
    "growth_bytes": Field("integer", "growth of the runner's memory since its start"),
    "line": Field("string", "what was printed on the runner's standard error or output"),
    "xid": Field("integer", "NVIDIA's number of an error"),
    # the instance
    "kind": Field("string", "`spot`, `termination` or `rebalance`"),
    "ends_at": Field("string", "when the instance ends, RFC 3339"),
    "notice": Field("string", "what the metadata said"),
}

FIELDS = {**ALWAYS, **JOB, **SUMMARY, **OTHERS}


def json_schema() -> dict[str, Any]:
    """JSON Schema of one line. Any field but those on every line may be absent; only they are never null."""
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
