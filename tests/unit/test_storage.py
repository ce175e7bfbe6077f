"""The S3 adapter: what is an outage, and what its errors say."""

import logging
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, FlexibleChecksumError

from daemon.aws.s3 import Storage, open_storage
from daemon.cli.command import open_s3
from daemon.errors import AccessDenied, StorageUnavailable, TranscriptdError
from daemon.telemetry.metrics import Metrics
from daemon.weights.mirror import Mirror
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
    ],
    ids=str,
)
async def test_an_answer_that_concerns_every_call_is_an_outage(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert await outages_logged(error, caplog) == ["storage unavailable", "storage available again"] * 3


@pytest.mark.parametrize(
    ("error", "says", "conceals"),
    [
        (refusal("AccessDenied", 403, "PutObject"), "s3:PutObject", "s3:GetObject"),
        (refusal("AccessDenied", 403, "PutObject"), "TRANSCRIPTD_OUTPUT_ACL", "REQUESTER_PAYS"),
        (refusal("AccessDenied", 403, "GetObject"), "TRANSCRIPTD_REQUESTER_PAYS", "s3:PutObject"),
        (refusal("403", 403, "HeadObject"), "s3:GetObject", "s3:PutObject"),
        (refusal("403", 403, "HeadBucket"), "s3:ListBucket", "s3:PutObject"),
        (refusal("AccessDenied", 403, "DeleteObjects"), "s3:DeleteObject", "s3:PutObject"),
        (refusal("KMS.DisabledException", 400, "GetObject"), "key is disabled", "s3:GetObject"),
        (refusal("KMS.NotFoundException", 400, "PutObject"), "TRANSCRIPTD_OUTPUT_KMS_KEY_ID", "s3:PutObject"),
        (refusal("KMS.KMSInvalidStateException", 400, "GetObject"), "not usable", "s3:GetObject"),
        (
            refusal("AccessDenied", 403, "PutObject", "not authorized to perform: kms:GenerateDataKey on resource"),
            "kms:GenerateDataKey",
            "s3:PutObject",
        ),
        (
            refusal("AccessDenied", 403, "GetObject", "not authorized to perform: kms:Decrypt on"),
            "kms:Decrypt",
            "Generate",
        ),
    ],
    ids=str,
)
async def test_advice_fits_the_operation_and_the_cause(error: Exception, says: str, conceals: str) -> None:
    with pytest.raises(AccessDenied) as denied:
        await storage_with(Client(error)).head("results")
    assert says in denied.value.message
    assert conceals not in denied.value.message


async def test_written_objects_have_the_encryption_and_acl_of_the_settings() -> None:
    client = Client()
    await storage_with(client).write("results", "a", b"")
    await storage_with(
        client, output_encryption="aws:kms:dsse", output_kms_key_id="k", output_acl="bucket-owner-full-control"
    ).write("results", "a", b"")
    names = ("ServerSideEncryption", "SSEKMSKeyId", "ACL")
    plain, special = ({name: call[name] for name in names if name in call} for _, call in client.calls)
    assert plain == {}
    assert special == {"ServerSideEncryption": "aws:kms:dsse", "SSEKMSKeyId": "k", "ACL": "bucket-owner-full-control"}


@pytest.mark.parametrize(
    ("settings", "host", "path", "payer"),
    [
        ({"requester_pays": True}, "127.0.0.1", "/results", "requester"),
        ({"s3_addressing_style": "virtual"}, "results.localhost", "/", None),
        ({"s3_addressing_style": "path"}, "localhost", "/results", None),
        ({}, "localhost", "/results", None),
    ],
)
@pytest.mark.parametrize("client", ["daemon", "commands", "mirror"])
async def test_requests_accept_to_pay_and_name_the_bucket_as_the_settings_say(
    client: str, settings: dict[str, Any], host: str, path: str, payer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def record(request: Any, **_: Any) -> None:
        sent.append(request)
        raise EndpointConnectionError(endpoint_url=request.url)

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{'127.0.0.1' if host == '127.0.0.1' else 'localhost'}:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if client == "daemon":
        async with open_storage(some_settings(**settings)) as storage:
            storage._client.meta.events.register("before-send.s3", record)
            with pytest.raises(StorageUnavailable):
                await storage.head("results")
    else:
        wanted = some_settings(**settings)
        s3 = open_s3(wanted) if client == "commands" else Mirror("s3://results", {}, wanted)._s3
        s3.meta.events.register("before-send.s3", record)
        with pytest.raises(EndpointConnectionError):
            s3.head_bucket(Bucket="results")
    url = urlsplit(sent[0].url)
    assert (url.hostname, url.path) == (host, path)
    header = sent[0].headers.get("x-amz-request-payer")
    assert (header.decode() if isinstance(header, bytes) else header) == payer
