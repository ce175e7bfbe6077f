"""An in-process AWS: moto's server on a free loopback port, with the queues and buckets that a daemon needs."""

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
MAX_RECEIVE_COUNT = 10  # as in deploy/terraform: high, because interruptions count too


class EmbeddedAws:
    """Context manager for the embedded AWS. All state is in memory and is lost at the end."""

    input_bucket = "media"
    output_bucket = "results"

    def __init__(self, visibility_timeout_seconds: int = 120, region: str = REGION) -> None:
        self._visibility_timeout_seconds = visibility_timeout_seconds
        self.region = region
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no access log

    def __enter__(self) -> Self:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.connect(f"http://{host}:{port}")
        return self

    def connect(self, endpoint_url: str) -> None:
        """Open clients for a new service, and create the queues and buckets."""
        self.endpoint_url = endpoint_url
        # Explicit, so that neither the profile nor the credentials of the user are picked up.
        access: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "region_name": self.region,
            "aws_access_key_id": "embedded",
            "aws_secret_access_key": "embedded",
        }
        self.sqs: SQSClient = boto3.client("sqs", **access)
        self.s3: S3Client = boto3.client("s3", **access)
        self._create()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # moto keeps its state in module globals: without a reset, the next EmbeddedAws in this process would inherit it.
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint_url}/moto-api/reset", method="POST")).close()  # noqa: S310  # loopback
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that point a daemon at this AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
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
        self.queue_url, self.dlq_url = self.create_queue("transcriptd")
        # No redrive policy: an event ends with its retry schedule, not with a number of receives.
        self.outbox_url = self.sqs.create_queue(QueueName="transcriptd-webhooks")["QueueUrl"]
        for bucket in (self.input_bucket, self.output_bucket):
            self.create_bucket(bucket)

    def create_queue(self, name: str) -> tuple[str, str]:
        """Create a job queue with its dead-letter queue. Return their URLs."""
        dlq_url = self.sqs.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
        found = self.sqs.get_queue_attributes(QueueUrl=dlq_url, AttributeNames=["QueueArn"])
        policy = {"deadLetterTargetArn": found["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVE_COUNT}
        queue = self.sqs.create_queue(
            QueueName=name,
            Attributes={
                "VisibilityTimeout": str(self._visibility_timeout_seconds),
                "RedrivePolicy": json.dumps(policy),
            },
        )
        return queue["QueueUrl"], dlq_url

    def create_bucket(self, name: str) -> None:
        """Create a bucket in this region. Outside us-east-1, S3 requires the region in the call."""
        if self.region == "us-east-1":
            self.s3.create_bucket(Bucket=name)
        else:
            constraint: Any = self.region
            self.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": constraint})
