"""An AWS in this process: moto's server on a free loopback port, with the queues and buckets a daemon needs."""

import json
import logging
import urllib.request
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
MAX_RECEIVE_COUNT = 5


class EmbeddedAws:
    """`with EmbeddedAws() as aws:`. Everything is in memory and gone at the end."""

    input_bucket = "media"
    output_bucket = "results"

    def __init__(self, visibility_timeout_seconds: int = 120) -> None:
        self._visibility_timeout_seconds = visibility_timeout_seconds
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise

    def __enter__(self) -> Self:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint_url = f"http://{host}:{port}"
        # Given explicitly: neither a profile nor credentials of the person running this may leak in here.
        access: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": "embedded",
            "aws_secret_access_key": "embedded",
        }
        self.sqs: SQSClient = boto3.client("sqs", **access)
        self.s3: S3Client = boto3.client("s3", **access)
        self._create()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # moto keeps its state in module globals: without this the next one in this process would inherit it.
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint_url}/moto-api/reset", method="POST")).close()  # noqa: S310  # loopback
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a daemon use this AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": "embedded",
            "AWS_EC2_METADATA_DISABLED": "true",
            "TRANSCRIPTD_QUEUE_URL": self.queue_url,
            "TRANSCRIPTD_DLQ_URL": self.dlq_url,
            "TRANSCRIPTD_OUTBOX_URL": self.outbox_url,
            "TRANSCRIPTD_INPUT_BUCKETS": self.input_bucket,
            "TRANSCRIPTD_OUTPUT_BUCKET": self.output_bucket,
        }

    def _create(self) -> None:
        self.dlq_url = self.sqs.create_queue(QueueName="transcriptd-dlq")["QueueUrl"]
        dlq = self.sqs.get_queue_attributes(QueueUrl=self.dlq_url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        self.queue_url = self.sqs.create_queue(
            QueueName="transcriptd",
            Attributes={
                "VisibilityTimeout": str(self._visibility_timeout_seconds),
                "RedrivePolicy": json.dumps({"deadLetterTargetArn": dlq, "maxReceiveCount": MAX_RECEIVE_COUNT}),
            },
        )["QueueUrl"]
        # No redrive: an event is received once a try, and its schedule, not a count, ends it.
        self.outbox_url = self.sqs.create_queue(QueueName="transcriptd-webhooks")["QueueUrl"]
        for bucket in (self.input_bucket, self.output_bucket):
            self.s3.create_bucket(Bucket=bucket)
