"""The S3 adapter: what is an outage, and what its errors say."""

import logging
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, FlexibleChecksumError

from daemon.aws.s3 import Storage
from daemon.errors import TranscriptdError
from daemon.telemetry.metrics import Metrics
from tests.support.builders import some_settings


def refusal(code: str, status: int, operation: str = "GetObject", message: str = "") -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


class Client:
    """An S3 client whose calls raise `error`, or succeed without one. `calls` records their arguments."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(**arguments: Any) -> dict[str, Any]:
            self.calls.append((name, arguments))
            if self.error is not None:
                raise self.error
            return {"ETag": '"e"'}

        return call


def storage_with(client: Client, **settings: Any) -> Storage:
    return Storage(client, some_settings(**settings), Metrics())  # type: ignore[arg-type]


async def outages_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Let calls for one object fail while calls for others succeed. Return the events logged."""
    client = Client()
    storage = storage_with(client)
    with caplog.at_level(logging.DEBUG, "transcriptd.storage"):
        for _ in range(3):
            client.error = error
            with pytest.raises(TranscriptdError):
                await storage.head("media")
            client.error = None
            await storage.head("results")
    return [record.message for record in caplog.records]


@pytest.mark.parametrize(
    "error",
    [
        refusal("InvalidRequest", 400),
        refusal("SignatureDoesNotMatch", 403),
        refusal("AccessDenied", 403),
        refusal("NoSuchKey", 404),
        refusal("PreconditionFailed", 412),
        refusal("NotImplemented", 501),
        FlexibleChecksumError(error_msg="checksum"),
    ],
    ids=str,
)
async def test_an_answer_about_one_object_is_no_outage(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert await outages_logged(error, caplog) == []


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://s3"),
        refusal("InternalError", 500),
        refusal("SlowDown", 503),
        refusal("429", 429),
        refusal("RequestTimeout", 400),
        refusal("ExpiredToken", 400),
    ],
    ids=str,
)
async def test_an_answer_that_concerns_every_call_is_an_outage(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert await outages_logged(error, caplog) == ["storage unavailable", "storage available again"] * 3
