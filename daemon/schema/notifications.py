"""The messages with which AWS announces an object in S3, as SQS delivers them: read what a job needs, ignore the rest.

- S3's own notification: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
- EventBridge's event: https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
- the envelope of SNS: https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from daemon.errors import InvalidJob, SeveralRecords
from daemon.schema.job import MAX_KEY_BYTES, plain_name
from daemon.schema.wording import clip

MAX_NAME_CHARS = 60
DIGEST_CHARS = 16


class Ignored(StrEnum):
    """Why a message is no job. The values are metric labels."""

    TEST_EVENT = "test_event"  # sent once when a bucket's notifications are configured
    OTHER_EVENT = "other_event"  # not the creation of an object
    EMPTY_OBJECT = "empty_object"  # no bytes, or a folder
    OWN_OBJECT = "own_object"  # a result of transcriptd


class NotAJob(Exception):
    """Raised for a message that is deleted without a job."""

    def __init__(self, reason: Ignored, key: str | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.key = None if key is None else key[:MAX_KEY_BYTES]  # of the object, for the log


@dataclass(frozen=True, slots=True)
class CreatedObject:
    """An object that was put into a bucket."""

    bucket: str
    key: str
    version_id: str | None
    etag: str

    @property
    def job_id(self) -> str:
        """The ID of its job, the same for every notification of the same content. Without versions, the ETag tells it."""
        identity = "\n".join((self.bucket, self.key, self.version_id or self.etag))
        digest = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:DIGEST_CHARS]
        stem = plain_name(self.key.rpartition("/")[2].rpartition(".")[0] or self.key.rpartition("/")[2])
        return f"{stem[:MAX_NAME_CHARS]}-{digest}"

    def message(self) -> dict[str, Any]:
        """Return its job message."""
        source = {"bucket": self.bucket, "key": self.key, "version_id": self.version_id}
        return {"job_id": self.job_id, "input": source}


def is_envelope(body: dict[str, Any]) -> bool:
    """Return whether the body is the envelope of SNS around another message."""
    return "TopicArn" in body and "Type" in body


def enclosed_message(body: dict[str, Any]) -> str:
    """Return the message in the envelope of SNS. Raises InvalidJob if there is none."""
    if body["Type"] != "Notification":
        raise InvalidJob(
            f"SNS sent a message of the type {clip(body['Type'])}; confirm the subscription of the queue to the topic, then delete it"
        )
    return _text(body, "Message", what="SNS notification")


def created_object(body: dict[str, Any]) -> CreatedObject | None:
    """Return the object that a notification announces, or None if the body is no notification.

    Raises NotAJob for other events, and InvalidJob for a notification that cannot be read.
    """
    if body.get("Event") == "s3:TestEvent":
        raise NotAJob(Ignored.TEST_EVENT)
    if "Records" in body:
        return _from_s3(body["Records"])
    return _from_eventbridge(body) if "detail-type" in body else None


def _from_s3(records: object) -> CreatedObject:
    what = "S3 notification"
    if not isinstance(records, list) or not records or not isinstance(records[0], dict):
        raise InvalidJob("Records is not a list of S3's records; send a job message or a notification of S3")
    if len(records) > 1:
        raise SeveralRecords(f"the notification has {len(records)} records; S3 sends one: send each in its own message")
    (record,) = records
    source = _text(record, "eventSource", what=what)
    if not source.endswith(":s3"):  # `aws:s3`; stores with S3's interface have their own name before the colon
        raise InvalidJob(f"the event source {clip(source)} is not S3; only notifications of S3 are accepted")
    if not _text(record, "eventName", what=what).removeprefix("s3:").startswith("ObjectCreated:"):
        raise NotAJob(Ignored.OTHER_EVENT)
    try:  # encoded as in an HTML form
        key = unquote_plus(_text(record, "s3", "object", "key", what=what), errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidJob("the key in the S3 notification is not UTF-8; rename the object") from error
    details = record["s3"]["object"]
    return _created(
        _text(record, "s3", "bucket", "name", what=what), key, details, details.get("versionId"), details.get("eTag")
    )


def _from_eventbridge(body: dict[str, Any]) -> CreatedObject:
    what = "event of EventBridge"
    source = _text(body, "source", what=what)
    if source != "aws.s3":
        raise InvalidJob(f"the event source {clip(source)} is not S3; let the rule match only the source aws.s3")
    if body["detail-type"] != "Object Created":
        raise NotAJob(Ignored.OTHER_EVENT)
    key = _text(body, "detail", "object", "key", what=what)  # not encoded
    details = body["detail"]["object"]
    return _created(
        _text(body, "detail", "bucket", "name", what=what), key, details, details.get("version-id"), details.get("etag")
    )


def _created(bucket: str, key: str, details: dict[str, Any], version: object, etag: object) -> CreatedObject:
    if details.get("size") == 0 or key.endswith("/"):
        raise NotAJob(Ignored.EMPTY_OBJECT, key)
    version_id = version if isinstance(version, str) and version not in ("", "null") else None
    return CreatedObject(bucket, key, version_id, etag if isinstance(etag, str) else "")


def _text(body: Any, *path: str, what: str) -> str:
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    if not isinstance(body, str) or not body:
        raise InvalidJob(f"the {what} has no text in {'.'.join(path)}; send it as AWS does, without changes")
    return body
