"""Every error that S3, SQS or KMS documents has a class on purpose."""

from typing import Any

import botocore.session
import pytest

from daemon.aws.faults import Fault, Service, fault_of_response, listed_fault

# Documented, but not in botocore's service models.
MORE: dict[Service, str] = {
    "s3": "SignatureDoesNotMatch InvalidRequest RequestTimeTooSkewed AccessDenied NoSuchBucket NoSuchVersion SlowDown "
    "InternalError ServiceUnavailable NotImplemented XAmzContentSHA256Mismatch InvalidAccessKeyId ExpiredToken InvalidToken "
    "InvalidRange InvalidArgument KeyTooLongError MethodNotAllowed PreconditionFailed ConditionalRequestConflict "
    "RequestTimeout BadDigest EntityTooLarge InvalidBucketName PermanentRedirect AuthorizationHeaderMalformed "
    "OperationAborted AllAccessDisabled AccountProblem UserKeyMustBeSpecified KMS.ThrottlingException",
    "sqs": "AWS.SimpleQueueService.NonExistentQueue AWS.SimpleQueueService.MessageNotInflight AccessDenied "
    "AccessDeniedException InvalidParameterValue MissingParameter ThrottlingException InternalFailure ServiceUnavailable "
    "InvalidClientTokenId ExpiredToken SignatureDoesNotMatch OptInRequired KMS.AccessDeniedException RequestExpired "
    "com.amazonaws.sqs#QueueDoesNotExist KMS.ThrottlingException",
}


def modelled(service: str) -> list[str]:
    return [shape.name for shape in botocore.session.get_session().get_service_model(service).error_shapes]


def documented() -> list[tuple[Service, str]]:
    services: tuple[Service, ...] = ("s3", "sqs")
    return [
        (service, code)
        for service in services
        for code in (*modelled(service), *(f"KMS.{name}" for name in modelled("kms")), *MORE[service].split())
    ]


def response(code: str, status: int | None = None, message: str = "") -> dict[str, Any]:
    metadata = {} if status is None else {"HTTPStatusCode": status}
    return {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}


@pytest.mark.parametrize(("service", "code"), documented())
def test_documented_code_is_listed_and_the_status_does_not_matter(service: Service, code: str) -> None:
    fault = listed_fault(service, code)
    assert fault is not None
    assert {fault_of_response(service, response(code, status)) for status in (None, 200, 400, 403, 501, 503)} == {fault}


@pytest.mark.parametrize(
    ("service", "code", "fault"),
    [
        ("s3", "InvalidRequest", Fault.JOB),
        ("s3", "SignatureDoesNotMatch", Fault.JOB),
        ("s3", "NoSuchKey", Fault.JOB),
        ("s3", "AccessDenied", Fault.JOB),
        ("s3", "KMS.DisabledException", Fault.JOB),
        ("s3", "NotImplemented", Fault.JOB),
        ("s3", "RequestTimeTooSkewed", Fault.DEPLOYMENT),
        ("s3", "InvalidAccessKeyId", Fault.DEPLOYMENT),
        ("s3", "SlowDown", Fault.DEPENDENCY),
        ("s3", "RequestTimeout", Fault.DEPENDENCY),  # with status 400
        ("s3", "XAmzContentSHA256Mismatch", Fault.DEPENDENCY),
        ("s3", "KMS.KMSInternalException", Fault.DEPENDENCY),
        ("sqs", "QueueDoesNotExist", Fault.DEPLOYMENT),
        ("sqs", "KmsAccessDenied", Fault.DEPLOYMENT),
        ("sqs", "KMS.DisabledException", Fault.DEPLOYMENT),
        ("sqs", "SignatureDoesNotMatch", Fault.DEPLOYMENT),
        ("sqs", "KmsThrottled", Fault.DEPENDENCY),
        ("sqs", "OverLimit", Fault.DEPENDENCY),
        ("sqs", "ReceiptHandleIsInvalid", Fault.JOB),
    ],
)
def test_class_of_a_code(service: Service, code: str, fault: Fault) -> None:
    assert listed_fault(service, code) is fault


@pytest.mark.parametrize(
    ("status", "s3", "sqs"),
    [
        (301, Fault.JOB, Fault.DEPLOYMENT),
        (400, Fault.JOB, Fault.DEPLOYMENT),
        (403, Fault.JOB, Fault.DEPLOYMENT),
        (404, Fault.JOB, Fault.DEPLOYMENT),
        (418, Fault.JOB, Fault.DEPLOYMENT),
        (501, Fault.JOB, Fault.DEPLOYMENT),
        (408, Fault.DEPENDENCY, Fault.DEPENDENCY),
        (429, Fault.DEPENDENCY, Fault.DEPENDENCY),
        (500, Fault.DEPENDENCY, Fault.DEPENDENCY),
        (502, Fault.DEPENDENCY, Fault.DEPENDENCY),
        (503, Fault.DEPENDENCY, Fault.DEPENDENCY),
        (200, Fault.DEPENDENCY, Fault.DEPENDENCY),
        (None, Fault.DEPENDENCY, Fault.DEPENDENCY),
    ],
)
def test_status_decides_for_unknown_codes_and_unreadable_bodies(status: int | None, s3: Fault, sqs: Fault) -> None:
    for code in ("", str(status), "CodeOfTheFuture"):
        if status is None and code.isdigit():
            continue
        assert fault_of_response("s3", response(code, status)) is s3
        assert fault_of_response("sqs", response(code, status)) is sqs


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.", Fault.JOB),
        ("Reason: Message does not exist or is not available for visibility timeout change.", Fault.JOB),
        ("Reason: Total VisibilityTimeout for the message is beyond the limit.", Fault.DEPLOYMENT),
    ],
)
def test_text_tells_an_expired_handle_from_another_invalid_parameter(message: str, fault: Fault) -> None:
    assert fault_of_response("sqs", response("InvalidParameterValue", 400, message)) is fault
