"""Calls to AWS: clients that answer within a check's time, and what a refusal means, in words."""

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

from daemon.errors import TranscriptdError
from daemon.tools.check.registry import Ends, failed

CONFIG = AioConfig(
    connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2}, max_pool_connections=4
)
FAULTS = (BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError, TimeoutError, OSError, TranscriptdError)

DENIED = {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "Forbidden", "403"}
NO_QUEUE = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
NO_BUCKET = {"NoSuchBucket", "NotFound", "404"}
WRONG_CLOCK = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
WRONG_KEY = {
    *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"),
    *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidSignatureException"),
}
ELSEWHERE = {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class Denied(Ends):
    """The credentials may not do that."""


@contextmanager
def calling(action: str, where: str) -> Iterator[None]:
    """Whatever goes wrong inside ends the check, with the IAM action and the thing named. Raises Denied or Ends."""
    try:
        yield
    except FAULTS as error:
        raise explain(error, action, where) from error


def explain(error: BaseException, action: str, where: str) -> Ends:
    """A failed call in words: what refused it, and what to do."""
    if isinstance(error, TranscriptdError) and error.__cause__ is not None:
        error = error.__cause__  # of sqs.py and storage.py, whose words are for jobs
    if isinstance(error, TranscriptdError):  # it is about the answer, and has no cause but that
        if "AccessDenied" in error.message:  # for one key of a DeleteObjects
            return Denied(failed(f"{where}: {action} is denied", f"Allow the role {action} on it."))
        return Ends(failed(f"{where}: {error.message}", "Check what answers as AWS: AWS_ENDPOINT_URL, a proxy."))
    if isinstance(error, NoRegionError):
        return Ends(failed("no AWS region is set", "Set AWS_REGION to the region of the queues and buckets."))
    if isinstance(error, NoCredentialsError | PartialCredentialsError | TokenRetrievalError):
        fix = "Give the instance a role (deploy/terraform/iam.tf), or the shell a profile or AWS_* variables."
        return Ends(failed(f"no AWS credentials: {error}", fix))
    if not isinstance(error, ClientError):
        said = str(error) or type(error).__name__
        fix = "Check the network: route, security groups, VPC endpoints, proxy variables, AWS_ENDPOINT_URL."
        return Ends(failed(f"{where}: no answer to {action}: {said}", fix))
    code = error.response.get("Error", {}).get("Code", "")
    message = error.response.get("Error", {}).get("Message", "")
    said = f"{code}: {message}" if message and message != code else code
    if code.upper().startswith("KMS") or "kms:" in message.lower() or ".KMS." in code.upper():
        fix = "Allow the role kms:Decrypt and kms:GenerateDataKey on the key, in IAM and in the key's policy."
        return Denied(failed(f"{where}: {action} is denied by KMS ({said})", fix))
    if code in DENIED:
        return Denied(failed(f"{where}: {action} is denied ({said})", f"Allow the role {action} on it."))
    if code in NO_QUEUE or code in NO_BUCKET:
        fix = "Create it, or correct its name in the settings, the region or the account."
        return Ends(failed(f"{where} does not exist ({said})", fix))
    if code in WRONG_CLOCK or "signature expired" in message.lower() or "not yet current" in message.lower():
        fix = "Set the clock: start chrony or systemd-timesyncd."
        return Ends(failed(f"{where}: AWS refuses signatures of this clock ({said})", fix))
    if code in WRONG_KEY:
        return Ends(failed(f"{where}: AWS refuses the credentials ({said})", "Renew the credentials, or correct them."))
    if code in ELSEWHERE:
        return Ends(failed(f"{where} is in another region ({said})", "Set AWS_REGION to the region of the bucket."))
    fix = "Read AWS's words; check the settings, the region and the state of the service."
    return Ends(failed(f"{where}: {action} failed ({said})", fix))
