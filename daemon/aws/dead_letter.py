"""The format of a dead letter, within SQS's limits. Pure; sqs.py sends dead letters and `transcriptd dlq` reads them.

A dead letter has the original body and attributes, an attribute `ErrorCode`, and an attribute `Failure`, a JSON object
with the details. SQS allows ten attributes: original attributes above this limit are in Failure, under
`more_attributes`, in the format of the AWS CLI.
"""

import base64
import json
from typing import Any

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_MESSAGE_ATTRIBUTES = 10
# Attribute names, types and values count. Queues with the older default reject messages above the first limit.
OLDER_MESSAGE_BYTES = 256 * 1024
MAX_MESSAGE_BYTES = 1024 * 1024

OURS = ("ErrorCode", "Failure")


def message_bytes(body: str, attributes: dict[str, Any]) -> int:
    """Return the size of a message as SQS counts it."""
    sizes = [_size(name) + sum(_size(part) for part in value.values()) for name, value in attributes.items()]
    return _size(body) + sum(sizes)


def attributes_of_copy(body: str, received: dict[str, Any], failure: dict[str, Any]) -> dict[str, Any]:
    """Build the attributes of the dead letter from the received attributes and the content of Failure.

    The dead letter never exceeds SQS's size limit: if the original leaves too little space, Failure omits the traceback.
    If that is still too large, the original attributes are returned unchanged: see `shortened`.
    """
    original = {name: sent for name, value in received.items() if (sent := _sendable(value))}
    theirs, more = _without_ours(original)
    # JSON escapes take space, so the smallest attributes are the ones that move into Failure.
    largest_first = sorted(theirs.items(), key=lambda item: message_bytes("", dict([item])), reverse=True)
    kept = dict(largest_first[: MAX_MESSAGE_ATTRIBUTES - len(OURS)])
    more |= {name: _as_json(value) for name, value in theirs.items() if name not in kept}
    # A larger message comes from a queue with the newer limit; its dead-letter queue must have the same limit.
    limit = OLDER_MESSAGE_BYTES if message_bytes(body, original) <= OLDER_MESSAGE_BYTES else MAX_MESSAGE_BYTES
    for traceback in (failure["traceback"], ""):
        copy = kept | _ours({**failure, "traceback": traceback, "more_attributes": more})
        if message_bytes(body, copy) <= limit:
            return copy
    return original


def shortened(
    body: str, received: dict[str, Any], failure: dict[str, Any], limit_bytes: int
) -> tuple[str, dict[str, Any]]:
    """Return body and attributes of a dead letter that states the reason within the limit, at the expense of the original.

    The body is cut. One that is long enough for this is never valid (MAX_BODY_CHARACTERS in schema/job.py). Failure has its
    size, and the names of the original attributes in place of their values.
    """
    dropped = sorted(name for name in received if name not in OURS)
    details = {"traceback": "", "more_attributes": {}, "body_bytes": _size(body), "dropped_attributes": dropped}
    attributes = _ours({**failure, **details})
    room_bytes = limit_bytes - message_bytes("", attributes)
    return body.encode(errors="surrogatepass")[:room_bytes].decode(errors="ignore"), attributes


def parse_failure(attributes: dict[str, Any]) -> dict[str, Any] | None:
    """Return the content of Failure (`code`, `message` …), or None if it is missing or not from transcriptd."""
    try:
        failure = json.loads(attributes["Failure"]["StringValue"])
        ours = {"code", "original_message_id"} <= failure.keys() and isinstance(failure["more_attributes"], dict)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None  # an attribute of the producer with the same name
    return failure if ours else None


def original_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Restore the original attributes from a dead letter: the inverse of attributes_of_copy."""
    sendable = {name: sent for name, value in attributes.items() if (sent := _sendable(value))}
    if parse_failure(sendable) is None:
        return sendable
    theirs, more = _without_ours(sendable)
    try:
        return theirs | {name: _from_json(value) for name, value in more.items()}
    except (ValueError, TypeError, AttributeError):
        return sendable  # imitates transcriptd's format: left unchanged


def _ours(failure: dict[str, Any]) -> dict[str, Any]:
    return {
        "ErrorCode": {"DataType": "String", "StringValue": failure["code"]},
        "Failure": {"DataType": "String", "StringValue": json.dumps(failure, ensure_ascii=False)},
    }


def _sendable(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the parts of an attribute that SendMessage accepts, or None if it has no value."""
    if not (value.get("StringValue") or value.get("BinaryValue")):
        return None
    return {part: value[part] for part in ("DataType", "StringValue", "BinaryValue") if value.get(part)}


def _without_ours(original: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes except ErrorCode and Failure, and the original attributes to preserve from these two.

    A message redriven from the dead-letter queue still has its earlier ErrorCode and Failure. New ones replace them, but
    the original attributes in the earlier Failure are kept.
    """
    theirs = {name: value for name, value in original.items() if name not in OURS}
    if earlier := parse_failure(original):
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
