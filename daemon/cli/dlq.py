"""`transcriptd dlq`: inspect the dead-letter queue, send its messages back to the job queue, or delete them.

SQS's own StartMessageMoveTask and PurgeQueue cannot select or edit messages or show why they failed. This command
receives the messages, extends their leases while it works, and redrives or deletes them individually.
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

from daemon.cli.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    Stop,
    ToolError,
    UsageError,
    age,
    check_message,
    contract_settings,
    err,
    open_sqs,
    out,
    printable,
    queue_url,
    send,
)
from daemon.cli.edits import Edit, apply, removal, setting
from daemon.cli.leased_messages import DeadLetter, LeasedMessages
from daemon.config import Settings
from daemon.errors import InvalidJob
from daemon.jobs.message_forms import named_profile, read_form

MIN_PREFIX = 8
# SQS's error codes for a body or an attribute that it does not accept.
REFUSALS = ("InvalidMessageContents", "InvalidParameterValue", "InvalidAttributeValue")


def list_letters(arguments: Namespace) -> int:
    with _lease_messages(arguments) as (leased, stop):
        letters = leased.receive(arguments.limit, stop)
    seen = len(letters)
    if arguments.reason:
        letters = [letter for letter in letters if letter.reason == arguments.reason]
    if arguments.job:
        letters = [letter for letter in letters if letter.job_id == arguments.job]
    if arguments.tenant:
        letters = [letter for letter in letters if letter.tenant == arguments.tenant]
    if arguments.json:
        for letter in letters:
            print(json.dumps(_summary(letter)))
    elif letters:
        out.print(_table(letters))
    err.print(_count("listed", len(letters), seen, leased, arguments.limit, stopped=stop.requested))
    return EXIT_INTERRUPTED if stop.requested else EXIT_OK


def show(arguments: Namespace) -> int:
    with _lease_messages(arguments) as (leased, stop):
        letters = leased.receive(arguments.limit, stop)
    for letter in _named([arguments.id], letters, leased):
        for line in _everything(letter):
            print(printable(line))
    return EXIT_INTERRUPTED if stop.requested else EXIT_OK


def redrive(arguments: Namespace) -> int:
    """Send each message, then delete it, so that an interruption can duplicate a message but never lose one."""
    jobs_url = queue_url(arguments, "queue_url")
    if jobs_url == queue_url(arguments, "dlq_url"):
        raise UsageError("--queue-url and --dlq-url are the same queue")
    edits = [setting(text) for text in arguments.edits] + [removal(text) for text in arguments.removals]
    _check_selection(arguments)
    with _lease_messages(arguments) as (leased, stop):
        chosen = _choose(arguments, leased, stop)
        bodies = {letter.message_id: _edited(letter, edits) for letter in chosen}
        if arguments.dry_run:
            for letter in chosen:
                print(printable(f"would send {_name(letter)}: {bodies[letter.message_id]}"))
            err.print(f"{len(chosen)} would be redriven; nothing was sent")
            return EXIT_OK
        sqs = open_sqs(jobs_url)
        done = 0
        try:
            for letter in chosen:
                if letter is not chosen[0]:
                    stop.sleep(1 / arguments.rate)
                if _must_stop(letter, leased, stop):
                    break
                try:
                    body = bodies[letter.message_id]
                    new_id = send(sqs, jobs_url, body, letter.original_attributes, letter.tenant)
                except (ParamValidationError, ClientError) as error:
                    if not _is_refusal(error):
                        raise
                    err.print(printable(f"{_name(letter)} not redriven: rejected by SQS: {error}"))
                    continue
                leased.delete(letter)
                done += 1
                print(f"{_name(letter)} sent as {new_id}", flush=True)
        finally:
            err.print(f"{done} of {len(chosen)} redriven; attempt count reset")
    return _status(done, len(chosen), stop)


def _is_refusal(error: ParamValidationError | ClientError) -> bool:
    """Whether SQS rejected only this message, so that the others can still be sent."""
    if isinstance(error, ParamValidationError):
        return True
    return error.response.get("Error", {}).get("Code", "").rpartition(".")[2] in REFUSALS


def purge(arguments: Namespace) -> int:
    """Delete only messages that were counted before the confirmation; later ones stay."""
    _check_selection(arguments)
    with _lease_messages(arguments) as (leased, stop):
        chosen = _choose(arguments, leased, stop)
        if chosen and not arguments.yes and not _confirmed(chosen, stop):
            err.print("nothing was deleted")
            return EXIT_FAILED
        done = 0
        try:
            for letter in chosen:
                if _must_stop(letter, leased, stop):
                    break
                leased.delete(letter)
                done += 1
                print(f"{_name(letter)} deleted", flush=True)
        finally:
            err.print(f"{done} of {len(chosen)} deleted")
    return _status(done, len(chosen), stop)


# --- choosing ------------------------------------------------------------------------------------------------------


@contextmanager
def _lease_messages(arguments: Namespace) -> Iterator[tuple[LeasedMessages, Stop]]:
    url = queue_url(arguments, "dlq_url")
    with Stop() as stop, LeasedMessages(open_sqs(url), url) as leased:
        yield leased, stop


def _check_selection(arguments: Namespace) -> None:
    """Require exactly one of IDs, conditions or --all, so that a typo cannot select more than intended."""
    conditions = any(given is not None for given in (arguments.reason, arguments.tenant, arguments.older_than))
    if [bool(arguments.ids), conditions, arguments.all].count(True) != 1:
        raise UsageError("select messages by ID, by --reason, --tenant and --older-than, or with --all")


def _choose(arguments: Namespace, leased: LeasedMessages, stop: Stop) -> list[DeadLetter]:
    """Return the selected messages and release all others."""
    letters = leased.receive(arguments.limit, stop)
    if stop.requested:
        raise KeyboardInterrupt
    chosen = _named(arguments.ids, letters, leased) if arguments.ids else letters
    if arguments.reason is not None:
        chosen = [letter for letter in chosen if letter.reason == arguments.reason]
    if arguments.tenant is not None:
        chosen = [letter for letter in chosen if letter.tenant == arguments.tenant]
    if arguments.older_than is not None:
        chosen = [letter for letter in chosen if letter.age_seconds > arguments.older_than]
    ids = {letter.message_id for letter in chosen}
    leased.release([letter.message_id for letter in letters if letter.message_id not in ids])
    err.print(_count("selected", len(chosen), len(letters), leased, arguments.limit))
    return chosen


def _named(names: list[str], letters: list[DeadLetter], leased: LeasedMessages) -> list[DeadLetter]:
    """Return the messages with these message IDs, ID prefixes or job IDs. Raises ToolError if one matches nothing."""
    found: dict[str, DeadLetter] = {}
    for name in names:
        meant = [
            letter
            for letter in letters
            if name in (letter.message_id, letter.job_id, letter.failure.get("original_message_id"))
        ]
        if not meant and len(name) >= MIN_PREFIX:
            meant = [letter for letter in letters if letter.message_id.startswith(name)]
            if len(meant) > 1:
                raise ToolError(f"ambiguous ID prefix {name}: matches {len(meant)} messages")
        if not meant:
            raise ToolError(
                f"{name} not found: {len(letters)} of about {leased.total} messages were read, and nothing was changed. "
                "Another consumer may hold it: try again"
            )
        found |= {letter.message_id: letter for letter in meant}
    return list(found.values())


def _must_stop(letter: DeadLetter, leased: LeasedMessages, stop: Stop) -> bool:
    if not stop.requested and not leased.is_leased(letter):
        raise ToolError(
            "a lease expired because it could not be extended; the remaining messages are unchanged: run the command again"
        )
    return stop.requested


def _status(done: int, chosen: int, stop: Stop) -> int:
    if done == chosen:
        return EXIT_OK
    return EXIT_INTERRUPTED if stop.requested else EXIT_FAILED


def _edited(letter: DeadLetter, edits: list[Edit]) -> str:
    """Return the edited body, validated by the daemon's rules; without edits, the original body unchanged."""
    if not edits:
        return letter.body
    settings = contract_settings()
    try:
        message = _job_message(letter.body, settings)
        apply(edits, message)
        body = json.dumps(message, ensure_ascii=False)
        check_message(message, settings)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{_name(letter)} cannot be edited: {error}; nothing was sent") from error
    except InvalidJob as error:
        raise UsageError(
            f"{_name(letter)} would be rejected after the edit: {error.message}; nothing was sent"
        ) from error
    return body


def _job_message(body: str, settings: Settings) -> dict[str, Any]:
    """Return the body for an edit; a notification becomes a job message. Raises ValueError if it is no JSON object."""
    try:
        return named_profile(read_form(body), settings)
    except InvalidJob:  # which the edit may cure
        message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("the body is not a JSON object")
    return message


def _confirmed(chosen: list[DeadLetter], stop: Stop) -> bool:
    for reason, number in Counter(letter.reason for letter in chosen).most_common():
        err.print(printable(f"  {number} × {reason}"))
    err.print(f"This deletes {len(chosen)} permanently. Type {len(chosen)} to confirm: ", end="")
    try:
        with stop.at_once():
            return input().strip() == str(len(chosen))
    except (EOFError, KeyboardInterrupt):
        err.print()
        return False


# --- showing -------------------------------------------------------------------------------------------------------


def _name(letter: DeadLetter) -> str:
    return f"{letter.job_id or 'no job ID'} ({letter.message_id})"


def _count(verb: str, number: int, seen: int, leased: LeasedMessages, limit: int, *, stopped: bool = False) -> str:
    """Summarize the selection, and whether the queue may hold more messages than were read."""
    text = f"{number} {verb}" + (f" of {seen} read" if number != seen else "")
    if seen < leased.total:
        text += f"; the queue has about {leased.total}"
        if stopped:
            text += ": stopped before all were read"
        elif seen >= limit:
            text += f": --limit {limit} reached"
        elif leased.busy:
            text += (
                f", {leased.busy} of them held by other consumers (for example another dlq command, running or killed)"
            )
        else:
            text += ": SQS did not return all of them; try again"
    return text


def _summary(letter: DeadLetter) -> dict[str, Any]:
    failure = letter.failure
    return {
        "message_id": letter.message_id,
        "job_id": letter.job_id,
        "tenant": letter.tenant,
        "reason": letter.reason,
        "message": letter.explanation,
        "attempt": failure.get("attempt"),
        "worker_id": failure.get("worker_id"),
        "failed_at": failure.get("failed_at"),
        "sent_at": _utc(letter.sent_at),
        "age_seconds": round(letter.age_seconds),
    }


def _table(letters: list[DeadLetter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Job IDs and messages can be long: on a narrow terminal these two columns wrap, the others do not.
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


def _everything(letter: DeadLetter) -> Iterator[str]:
    failure = dict(letter.failure)
    traceback = str(failure.pop("traceback", ""))
    yield f"message      {letter.message_id}"
    yield f"job          {letter.job_id or '–'}"
    yield f"tenant       {letter.tenant or '–'}"
    yield f"sent         {_utc(letter.sent_at)}, {age(letter.age_seconds)} ago"
    yield f"reason       {letter.reason}: {letter.explanation}"
    for name, value in failure.items():
        if name not in ("code", "message", "more_attributes"):
            yield f"{name:<12} {value}"
    yield from ("", "body", *_pretty(letter.body))
    if attributes := letter.original_attributes:
        yield from ("", "original attributes")
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
