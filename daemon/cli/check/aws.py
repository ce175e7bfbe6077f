"""AWS calls of the checks: client timeouts, and explanations of failed calls."""

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from daemon.aws.session import WRONG_CREDENTIALS
from daemon.cli.check.registry import CheckAborted, failed
from daemon.errors import TranscriptdError
from daemon.telemetry.redaction import describe

CONFIG = AioConfig(
    connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2}, max_pool_connections=4
)
FAULTS = (BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError, TimeoutError, OSError, TranscriptdError)

DENIED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "Forbidden", "403"}
NO_QUEUE = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
NO_BUCKET = {"NoSuchBucket", "NotFound", "404"}
WRONG_CLOCK = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
ELSEWHERE = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class Denied(CheckAborted):
    """The credentials lack a permission."""


@contextmanager
def calling(action: str, where: str) -> Iterator[None]:
    """Convert a failure inside into a finding that names the IAM action and the resource. Raises Denied or CheckAborted."""
    try:
        yield
    except FAULTS as error:
        raise explain(error, action, where) from error


def explain(error: BaseException, action: str, where: str) -> CheckAborted:
    """Explain why a call failed and how to fix it."""
    if isinstance(error, TranscriptdError) and error.__cause__ is not None:
        error = error.__cause__  # sqs.py and s3.py word their errors for jobs
    if isinstance(error, TranscriptdError):  # an unexpected response, not a failed call
        if "AccessDenied" in error.message:  # for a key in a DeleteObjects call
            return Denied(failed(f"{where}: {action} is denied", f"Grant the role {action} on it."))
        return CheckAborted(
            failed(f"{where}: {error.message}", "Check the endpoint: AWS_ENDPOINT_URL, proxy variables.")
        )
    if isinstance(error, NoRegionError):
        return CheckAborted(failed("no AWS region is set", "Set AWS_REGION to the region of the queues and buckets."))
    if isinstance(error, NoCredentialsError | PartialCredentialsError | TokenRetrievalError):
        fix = (
            "Attach a role to the instance (deploy/terraform/iam.tf), or set a profile or AWS_* variables in the shell."
        )
        return CheckAborted(failed(f"no AWS credentials: {error}", fix))
    if not isinstance(error, ClientError):
        said = describe(error)
        fix = "Check the network: route, security groups, VPC endpoints, proxy variables, AWS_ENDPOINT_URL."
        return CheckAborted(failed(f"{where}: no response to {action}: {said}", fix))
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    said = f"{code}: {message}" if message and message != code else code
    if code.upper().startswith("KMS") or "kms:" in message.lower() or ".KMS." in code.upper():
        fix = "Grant the role kms:Decrypt and kms:GenerateDataKey on the key, in IAM and in the key policy."
        return Denied(failed(f"{where}: {action} is denied by KMS ({said})", fix))
    if code in DENIED:
        return Denied(failed(f"{where}: {action} is denied ({said})", f"Grant the role {action} on it."))
    if code in NO_QUEUE or code in NO_BUCKET:
        fix = "Create it, or correct its name, the region or the account."
        return CheckAborted(failed(f"{where} does not exist ({said})", fix))
    if code in WRONG_CLOCK or "signature expired" in message.lower() or "not yet current" in message.lower():
        fix = "Synchronize the clock: start chrony or systemd-timesyncd."
        return CheckAborted(failed(f"{where}: AWS rejects signatures made with this clock ({said})", fix))
    if code in WRONG_CREDENTIALS:
        return CheckAborted(
            failed(f"{where}: AWS rejects the credentials ({said})", "Renew or correct the credentials.")
        )
    if code in ELSEWHERE:
        return CheckAborted(
            failed(f"{where} is in another region ({said})", "Set AWS_REGION to the region of the bucket.")
        )
    fix = "Read the AWS error; check the settings, the region and the service's health."
    return CheckAborted(failed(f"{where}: {action} failed ({said})", fix))
