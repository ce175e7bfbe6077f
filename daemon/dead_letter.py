"""The copy of a message that goes to the dead-letter queue: what it carries, and how that fits. Pure; sqs.py sends it,
and `transcriptd dlq` reads it.

The copy has the original body and attributes, an attribute `ErrorCode`, and one `Failure`, a JSON object with the rest.
SQS allows ten attributes: those that find no place beside ours are in Failure, under `more_attributes`, in the form in
which the AWS command line takes them.
"""

import base64
import json
from typing import Any

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_MESSAGE_ATTRIBUTES = 10
# Names, types and values of attributes count. A queue with the older default refuses what is larger than the first.
OLDER_MESSAGE_BYTES = 256 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024

OURS = ("ErrorCode", "Failure")


def message_bytes(body: str, attributes: dict[str, Any]) -> int:
    """The size of a message as SQS counts it."""
    sizes = [_size(name) + sum(_size(part) for part in value.values()) for name, value in attributes.items()]
    return _size(body) + sum(sizes)


def attributes_of_copy(body: str, received: dict[str, Any], failure: dict[str, Any]) -> dict[str, Any]:
    """The attributes of the copy, given those that were received and what Failure is to say (`code`, `traceback` …).

    The copy is never larger than SQS takes: where the original leaves too little room Failure goes without the
    traceback, and where even that is too much the original goes as it came; the log has the reason.
    """
    original = {name: sent for name, value in received.items() if (sent := _sendable(value))}
    theirs, more = _without_ours(original)
    kept = dict(list(theirs.items())[: MAX_MESSAGE_ATTRIBUTES - len(OURS)])
    more |= {name: _as_json(value) for name, value in theirs.items() if name not in kept}
    # A queue that brought a larger message is a newer one, and so must be the dead-letter queue of its redrive.
    limit = OLDER_MESSAGE_BYTES if message_bytes(body, original) <= OLDER_MESSAGE_BYTES else MAX_MESSAGE_BYTES
    for traceback in (failure["traceback"], ""):
        told = json.dumps({**failure, "traceback": traceback, "more_attributes": more})
        copy = kept | {
            "ErrorCode": {"DataType": "String", "StringValue": failure["code"]},
            "Failure": {"DataType": "String", "StringValue": told},
        }
        if message_bytes(body, copy) <= limit:
            return copy
    return original


def failure_of(attributes: dict[str, Any]) -> dict[str, Any] | None:
    """What Failure says (`code`, `message` …); None where there is none, or one that is not ours."""
    try:
        failure = json.loads(attributes["Failure"]["StringValue"])
        ours = {"code", "original_message_id"} <= failure.keys() and isinstance(failure["more_attributes"], dict)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None  # the producer chose the name
    return failure if ours else None


def original_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes that the original had, given those of its copy: the inverse of attributes_of_copy."""
    sendable = {name: sent for name, value in attributes.items() if (sent := _sendable(value))}
    if failure_of(sendable) is None:
        return sendable
    theirs, more = _without_ours(sendable)
    try:
        return theirs | {name: _from_json(value) for name, value in more.items()}
    except (ValueError, TypeError, AttributeError):
        return sendable  # forged after our pattern: it stays as it is


def _sendable(value: dict[str, Any]) -> dict[str, Any] | None:
    """The parts of an attribute that a send takes; None if it has no value, which a send refuses."""
    if not (value.get("StringValue") or value.get("BinaryValue")):
        return None
    return {part: value[part] for part in ("DataType", "StringValue", "BinaryValue") if value.get(part)}


def _without_ours(original: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of other names, and what must not be lost of those that have our names.

    A message that was redriven from the dead-letter queue brings its earlier ErrorCode and Failure: the new ones
    replace them, but for what they carried.
    """
    theirs = {name: value for name, value in original.items() if name not in OURS}
    if earlier := failure_of(original):
        return theirs, dict(earlier["more_attributes"])
    return theirs, {name: _as_json(original[name]) for name in OURS if name in original}


def _as_json(value: dict[str, Any]) -> dict[str, str]:
    return {
        part: base64.b64encode(content).decode() if isinstance(content, bytes) else content
        for part, content in value.items()
    }


def _from_json(value: dict[str, str]) -> dict[str, Any]:
    return {
        part: base64.b64decode(text, validate=True) if part == "BinaryValue" else text for part, text in value.items()
    }


def _size(content: str | bytes) -> int:
    return len(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
