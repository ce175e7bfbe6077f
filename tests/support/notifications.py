"""The messages with which AWS announces an object in S3."""

import json
from typing import Any
from urllib.parse import quote_plus


def from_s3(
    bucket: str,
    key: str,
    *,
    version_id: str | None = None,
    etag: str = "etag",
    size: int = 1024,
    event: str = "ObjectCreated:Put",
) -> dict[str, Any]:
    """Build S3's own notification. Its keys are encoded as in an HTML form."""
    versions = {} if version_id is None else {"versionId": version_id}
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": "eu-west-1",
                "eventTime": "2026-11-30T12:00:00.000Z",
                "eventName": event,
                "userIdentity": {"principalId": "AWS:AROA"},
                "requestParameters": {"sourceIPAddress": "192.0.2.1"},
                "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810"},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "recordings",
                    "bucket": {
                        "name": bucket,
                        "ownerIdentity": {"principalId": "A"},
                        "arn": f"arn:aws:s3:::{bucket}",
                    },
                    "object": {
                        "key": quote_plus(key, safe="/"),
                        "size": size,
                        "eTag": etag,
                        "sequencer": "0055AED6DCD90281E5",
                        **versions,
                    },
                },
            }
        ]
    }


def from_eventbridge(
    bucket: str,
    key: str,
    *,
    version_id: str | None = None,
    etag: str = "etag",
    size: int = 1024,
    event: str = "Object Created",
) -> dict[str, Any]:
    """Build EventBridge's event. Its keys are not encoded."""
    versions = {} if version_id is None else {"version-id": version_id}
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": event,
        "source": "aws.s3",
        "account": "111122223333",
        "time": "2026-11-30T12:00:00Z",
        "region": "eu-west-1",
        "resources": [f"arn:aws:s3:::{bucket}"],
        "detail": {
            "version": "0",
            "bucket": {"name": bucket},
            "object": {"key": key, "size": size, "etag": etag, "sequencer": "617f08299329d189", **versions},
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "111122223333",
            "source-ip-address": "192.0.2.1",
            "reason": "PutObject",
        },
    }


def from_sns(body: dict[str, Any]) -> dict[str, Any]:
    """Wrap a message as SNS does without raw delivery."""
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:eu-west-1:111122223333:recordings",
        "Subject": "Amazon S3 Notification",
        "Message": json.dumps(body),
        "Timestamp": "2026-11-30T12:00:00.000Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLE",
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-example.pem",
        "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
    }


def s3_test_event(bucket: str) -> dict[str, Any]:
    """Build what S3 sends when a bucket's notifications are configured."""
    return {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2026-11-30T12:00:00.000Z",
        "Bucket": bucket,
        "RequestId": "5582815E1AEA5ADF",
        "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
    }
