"""`transcriptd dlq`: look into the dead-letter queue, send its messages back to the job queue, or delete them.

What SQS offers itself (StartMessageMoveTask, PurgeQueue) can neither choose nor change nor say why. Here messages are
received, held while they are looked at, and dealt with one by one.
"""

import base64
import json
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError
from rich.table import Table

from daemon.crashpoints import crash_point
from daemon.errors import InvalidJob
from daemon.job import parse_job
from daemon.tools.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    Stop,
    ToolError,
    UsageError,
    age,
    contract_settings,
    err,
    open_sqs,
    out,
    printable,
    required,
    send,
)
from daemon.tools.edits import Edit, apply, removal, setting
from daemon.tools.held import Hold, Letter

MIN_PREFIX = 8
# What SQS says of a body with characters, or attributes, that no message may have.
REFUSALS = ("InvalidMessageContents", "InvalidParameterValue", "InvalidAttributeValue")


def list_letters(arguments: Namespace) -> int:
    with _hold(arguments) as (hold, stop):
        letters = hold.receive(arguments.limit, stop)
    seen = len(letters)
    if arguments.reason:
        letters = [letter for letter in letters if letter.reason == arguments.reason]
    if arguments.job:
        letters = [letter for letter in letters if letter.job_id == arguments.job]
    if arguments.json:
        for letter in letters:
            print(json.dumps(_summary(letter)))
    elif letters:
        out.print(_table(letters))
    err.print(_count("listed", len(letters), seen, hold, arguments.limit, stopped=stop.asked))
    return EXIT_INTERRUPTED if stop.asked else EXIT_OK


def show(arguments: Namespace) -> int:
    with _hold(arguments) as (hold, stop):
        letters = hold.receive(arguments.limit, stop)
    for letter in _named([arguments.id], letters, hold):
        for line in _everything(letter):
            print(printable(line))
    return EXIT_INTERRUPTED if stop.asked else EXIT_OK


def redrive(arguments: Namespace) -> int:
    """Send, then delete: whatever interrupts leaves a duplicate, never a loss, and a duplicate job finds the first's result."""
    queue_url = required(arguments.queue_url, "queue_url")
    if queue_url == required(arguments.dlq_url, "dlq_url"):
        raise UsageError("--queue-url and --dlq-url are the same queue")
    edits = [setting(text) for text in arguments.edits] + [removal(text) for text in arguments.removals]
    _check_selection(arguments)
    with _hold(arguments) as (hold, stop):
        chosen = _choose(arguments, hold, stop)
        bodies = {letter.message_id: _edited(letter, edits) for letter in chosen}
        if arguments.dry_run:
            for letter in chosen:
                print(printable(f"would send {_name(letter)}: {bodies[letter.message_id]}"))
            err.print(f"{len(chosen)} would be redriven; nothing was sent")
            return EXIT_OK
        sqs = open_sqs()
        done = 0
        try:
            for letter in chosen:
                if letter is not chosen[0]:
                    stop.sleep(1 / arguments.rate)
                if _must_stop(letter, hold, stop):
                    break
                try:
                    new_id = send(sqs, queue_url, bodies[letter.message_id], letter.original_attributes)
                except (ParamValidationError, ClientError) as error:
                    if not _is_refusal(error):
                        raise
                    err.print(printable(f"{_name(letter)} stays: SQS does not take it: {error}"))
                    continue
                crash_point("redriven", letter.job_id, 1)
                hold.delete(letter)
                done += 1
                print(f"{_name(letter)} sent as {new_id}", flush=True)
        finally:
            err.print(f"{done} of {len(chosen)} redriven; attempts start anew")
    return _status(done, len(chosen), stop)


def _is_refusal(error: ParamValidationError | ClientError) -> bool:
    """Whether it is this one message that cannot be sent: the others can."""
    if isinstance(error, ParamValidationError):
        return True
    return error.response.get("Error", {}).get("Code", "").rpartition(".")[2] in REFUSALS


def purge(arguments: Namespace) -> int:
    """Delete what was seen, one by one: what arrives meanwhile stays."""
    _check_selection(arguments)
    with _hold(arguments) as (hold, stop):
        chosen = _choose(arguments, hold, stop)
        if chosen and not arguments.yes and not _confirmed(chosen, stop):
            err.print("nothing was deleted")
            return EXIT_FAILED
        done = 0
        try:
            for letter in chosen:
                if _must_stop(letter, hold, stop):
                    break
                hold.delete(letter)
                done += 1
                print(f"{_name(letter)} deleted", flush=True)
        finally:
            err.print(f"{done} of {len(chosen)} deleted")
    return _status(done, len(chosen), stop)


# --- choosing ------------------------------------------------------------------------------------------------------


@contextmanager
def _hold(arguments: Namespace) -> Iterator[tuple[Hold, Stop]]:
    url = required(arguments.dlq_url, "dlq_url")
    with Stop() as stop, Hold(open_sqs(), url) as hold:
        yield hold, stop


def _check_selection(arguments: Namespace) -> None:
    """Either names, or conditions that all must hold, or --all alone: a slip must not reach more than was meant."""
    conditions = arguments.reason is not None or arguments.older_than is not None
    if [bool(arguments.ids), conditions, arguments.all].count(True) != 1:
        raise UsageError("say which messages: either ids, or --reason and --older-than, or --all")


def _choose(arguments: Namespace, hold: Hold, stop: Stop) -> list[Letter]:
    """The messages that the arguments mean; all others are released at once."""
    letters = hold.receive(arguments.limit, stop)
    if stop.asked:
        raise KeyboardInterrupt
    chosen = _named(arguments.ids, letters, hold) if arguments.ids else letters
    if arguments.reason is not None:
        chosen = [letter for letter in chosen if letter.reason == arguments.reason]
    if arguments.older_than is not None:
        chosen = [letter for letter in chosen if letter.age_seconds > arguments.older_than]
    ids = {letter.message_id for letter in chosen}
    hold.release([letter.message_id for letter in letters if letter.message_id not in ids])
    err.print(_count("chosen", len(chosen), len(letters), hold, arguments.limit))
    return chosen


def _named(names: list[str], letters: list[Letter], hold: Hold) -> list[Letter]:
    """The messages that are meant by message id, job id or the start of a message id. All or none."""
    found: dict[str, Letter] = {}
    for name in names:
        meant = [
            letter
            for letter in letters
            if name in (letter.message_id, letter.job_id, letter.failure.get("original_message_id"))
        ]
        if not meant and len(name) >= MIN_PREFIX:
            meant = [letter for letter in letters if letter.message_id.startswith(name)]
            if len(meant) > 1:
                raise ToolError(f"{name} is the start of {len(meant)} message ids; give more of it")
        if not meant:
            raise ToolError(
                f"{name} was not seen: {len(letters)} of about {hold.total} messages were looked at, and nothing was changed. "
                "Others may hold it for the moment: try again"
            )
        found |= {letter.message_id: letter for letter in meant}
    return list(found.values())


def _must_stop(letter: Letter, hold: Hold, stop: Stop) -> bool:
    if not stop.asked and not hold.holds(letter):
        raise ToolError("a lease could not be extended and ended: the rest is left as it is; run this again")
    return stop.asked


def _status(done: int, chosen: int, stop: Stop) -> int:
    if done == chosen:
        return EXIT_OK
    return EXIT_INTERRUPTED if stop.asked else EXIT_FAILED


def _edited(letter: Letter, edits: list[Edit]) -> str:
    """The body with the edits, checked as the daemon will; without edits as it came, to the byte."""
    if not edits:
        return letter.body
    try:
        message = json.loads(letter.body)
        if not isinstance(message, dict):
            raise ValueError("the body is not a JSON object")
        apply(edits, message)
        body = json.dumps(message, ensure_ascii=False)
        parse_job(body, contract_settings())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{_name(letter)} cannot be edited: {error}; nothing was sent") from error
    except InvalidJob as error:
        raise UsageError(f"{_name(letter)} as edited would be refused: {error.message}; nothing was sent") from error
    return body


def _confirmed(chosen: list[Letter], stop: Stop) -> bool:
    for reason, number in Counter(letter.reason for letter in chosen).most_common():
        err.print(printable(f"  {number} × {reason}"))
    err.print(f"This deletes {len(chosen)} for good. Type {len(chosen)} to go on: ", end="")
    try:
        with stop.at_once():
            return input().strip() == str(len(chosen))
    except (EOFError, KeyboardInterrupt):
        err.print()
        return False


# --- showing -------------------------------------------------------------------------------------------------------


def _name(letter: Letter) -> str:
    return f"{letter.job_id or 'no job id'} ({letter.message_id})"


def _count(verb: str, number: int, seen: int, hold: Hold, limit: int, *, stopped: bool = False) -> str:
    """How many, and honestly how many there may be besides."""
    text = f"{number} {verb}" + (f" of {seen} seen" if number != seen else "")
    if seen < hold.total:
        text += f"; the queue has about {hold.total}"
        if stopped:
            text += ": stopped before all were seen"
        elif seen >= limit:
            text += f": --limit {limit} was reached"
        elif hold.busy:
            text += f", {hold.busy} of them in the hands of others (another look, or one that was killed)"
        else:
            text += ": SQS did not show all, try again"
    return text


def _summary(letter: Letter) -> dict[str, Any]:
    failure = letter.failure
    return {
        "message_id": letter.message_id,
        "job_id": letter.job_id,
        "reason": letter.reason,
        "message": letter.explanation,
        "attempt": failure.get("attempt"),
        "worker_id": failure.get("worker_id"),
        "failed_at": failure.get("failed_at"),
        "sent_at": _utc(letter.sent_at),
        "age_seconds": round(letter.age_seconds),
    }


def _table(letters: list[Letter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Names may be long: where there is little room they and the message take several lines, the rest stays whole.
    for name in ("REASON", "JOB", "AGE", "ATTEMPTS", "WORKER", "ID", "MESSAGE"):
        table.add_column(name, no_wrap=name not in ("JOB", "MESSAGE"), overflow="fold")
    for letter in letters:
        failure = letter.failure
        row = [
            letter.reason,
            letter.job_id or "–",
            age(letter.age_seconds),
            str(failure.get("attempt", "–")),
            str(failure.get("worker_id", "–")),
            letter.message_id[:MIN_PREFIX],
            " ".join(letter.explanation.split()),
        ]
        table.add_row(*(printable(cell) for cell in row))
    return table


def _everything(letter: Letter) -> Iterator[str]:
    failure = dict(letter.failure)
    traceback = str(failure.pop("traceback", ""))
    yield f"message      {letter.message_id}"
    yield f"job          {letter.job_id or '–'}"
    yield f"sent         {_utc(letter.sent_at)}, {age(letter.age_seconds)} ago"
    yield f"reason       {letter.reason}: {letter.explanation}"
    for name, value in failure.items():
        if name not in ("code", "message", "more_attributes"):
            yield f"{name:<12} {value}"
    yield from ("", "body", *_pretty(letter.body))
    if attributes := letter.original_attributes:
        yield from ("", "attributes of the original")
        for name, value in attributes.items():
            content = value.get("StringValue") or base64.b64encode(value.get("BinaryValue", b"")).decode()
            yield f"  {name} ({value.get('DataType')}): {content}"
    if traceback:
        yield from ("", "traceback", *(f"  {line}" for line in traceback.splitlines()))
    yield ""


def _pretty(body: str) -> list[str]:
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body
    return [f"  {line}" for line in text.splitlines()]


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
