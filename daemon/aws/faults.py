"""Whose fault is an error of S3, SQS or KMS? The only place that decides it. Pure.

job         the object or message of this job is refused, and no retry cures it: the job ends with a code. In the
            deployment's own output location the same answer is the deployment's fault (result_store.py).
dependency  the service failed or is busy: retried, bounded by age and count (disposition.py).
deployment  credentials, clock, queue or key are wrong for every job: the brake stops receiving until they are corrected.

Every code that the services document is listed. For other codes the HTTP status decides: unknown 4xx are permanent,
because repeating a refused request cures nothing. The status also decides for bodies that are not the service's, such as
a gateway's page.
"""

from enum import StrEnum
from http import HTTPStatus
from typing import Any, Literal

Service = Literal["s3", "sqs"]


class Fault(StrEnum):
    JOB = "job"
    DEPENDENCY = "dependency"
    DEPLOYMENT = "deployment"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Every service: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
# SignatureDoesNotMatch is not here: from S3 it may be about one key, if a gateway rewrites its characters.
_CREDENTIALS = _words(
    "ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired InvalidAccessKeyId InvalidClientTokenId "
    "UnrecognizedClientException MissingAuthenticationToken MissingSecurityHeader IncompleteSignature NotSignedUp "
    "OptInRequired AccountProblem InvalidSecurity RequestTimeTooSkewed RequestExpired UnauthorizedAccess"
)
_BUSY = _words(
    "InternalError InternalFailure ServiceUnavailable SlowDown Throttling ThrottlingException ThrottledException "
    "RequestThrottled RequestThrottledException RequestLimitExceeded BandwidthLimitExceeded RequestTimeout "
    "RequestTimeoutException Busy TooManyRequestsException ProvisionedThroughputExceededException"
)

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
# Another writer was faster, or the request was damaged on its way.
_S3_DEPENDENCY = _words(
    "PreconditionFailed ConditionalRequestConflict OperationAborted BadDigest IncompleteBody InvalidDigest "
    "XAmzContentSHA256Mismatch XAmzContentChecksumMismatch"
)
_S3_JOB = _words(
    "AccessControlListNotSupported AccessDenied AllAccessDisabled AmbiguousGrantByEmailAddress "
    "AnnotationLimitExceeded AnnotationNameTooLong AuthorizationHeaderMalformed AuthorizationQueryParametersError "
    "BucketAlreadyExists BucketAlreadyOwnedByYou BucketNotEmpty ConnectionClosedByRequester CredentialsNotSupported "
    "CrossLocationLoggingProhibited EncryptionTypeMismatch EntityTooLarge EntityTooSmall Forbidden "
    "IdempotencyParameterMismatch IllegalLocationConstraintException IllegalVersioningConfigurationException "
    "IncorrectEndpoint InvalidAnnotationName InvalidArgument InvalidBucketName InvalidBucketState "
    "InvalidEncryptionAlgorithmError InvalidHTTPHost InvalidLocationConstraint InvalidObjectState InvalidPart "
    "InvalidPartOrder InvalidPayer InvalidPolicyDocument InvalidPrefix InvalidRange InvalidRegion InvalidRequest "
    "InvalidSOAPRequest InvalidStorageClass InvalidTag InvalidURI InvalidWriteOffset KeyTooLongError "
    "MalformedACLError MalformedPOSTRequest MalformedXML MaxMessageLengthExceeded MetadataTooLarge MethodNotAllowed "
    "MissingContentLength MissingRequestBodyError NoSuchAnnotation NoSuchBucket NoSuchKey NoSuchTagSet NoSuchUpload "
    "NoSuchVersion NotFound NotImplemented ObjectAlreadyInActiveTierError ObjectLockConfigurationNotFoundError "
    "ObjectNotInActiveTierError PermanentRedirect Redirect RequestHeaderSectionTooLarge RequestIsNotMultiPartContent "
    "RestoreAlreadyInProgress SignatureDoesNotMatch TemporaryRedirect TooManyBuckets TooManyParts UnexpectedContent "
    "UnexpectedIPError UnsupportedArgument UnsupportedMediaType UnsupportedSignature UserKeyMustBeSpecified"
)

# SQS uses its own names for KMS's errors. InvalidParameterValue: see `message_is_gone`.
_SQS_JOB = _words("MessageNotInflight ReceiptHandleIsInvalid")
_SQS_DEPENDENCY = _words("KmsThrottled OverLimit PurgeQueueInProgress")
_SQS_DEPLOYMENT = _words(
    "AccessDenied AccessDeniedException BatchEntryIdsNotDistinct BatchRequestTooLong EmptyBatchRequest InvalidAction "
    "InvalidAddress InvalidAttributeName InvalidAttributeValue InvalidBatchEntryId InvalidIdFormat InvalidMessageContents "
    "InvalidParameterCombination InvalidParameterValue InvalidQueryParameter KmsAccessDenied KmsDisabled "
    "KmsInvalidKeyUsage KmsInvalidState KmsNotFound KmsOptInRequired MalformedQueryString MissingAction MissingParameter "
    "NonExistentQueue NotAuthorized QueueDeletedRecently QueueDoesNotExist QueueNameExists ResourceNotFoundException "
    "SignatureDoesNotMatch TooManyEntriesInBatchRequest UnsupportedOperation ValidationError"
)

# https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html. S3 and SQS report them as `KMS.<code>`.
_KMS_DEPENDENCY = _words(
    "DependencyTimeoutException KeyUnavailableException KMSInternalException LimitExceededException"
)
_KMS_REFUSED = _words(
    "AccessDeniedException AlreadyExistsException CloudHsmClusterInUseException CloudHsmClusterInvalidConfigurationException "
    "CloudHsmClusterNotActiveException CloudHsmClusterNotFoundException CloudHsmClusterNotRelatedException ConflictException "
    "CustomKeyStoreHasCMKsException CustomKeyStoreInvalidStateException CustomKeyStoreNameInUseException "
    "CustomKeyStoreNotFoundException DisabledException DryRunOperationException ExpiredImportTokenException "
    "IncorrectKeyException IncorrectKeyMaterialException IncorrectTrustAnchorException InvalidAliasNameException "
    "InvalidArnException InvalidCiphertextException InvalidGrantIdException InvalidGrantTokenException "
    "InvalidImportTokenException InvalidKeyUsageException InvalidMarkerException KMSInvalidMacException "
    "KMSInvalidSignatureException KMSInvalidStateException MalformedPolicyDocumentException NotFoundException TagException "
    "UnsupportedOperationException XksKeyAlreadyInUseException XksKeyInvalidConfigurationException XksKeyNotFoundException "
    "XksProxyIncorrectAuthenticationCredentialException XksProxyInvalidConfigurationException "
    "XksProxyInvalidResponseException XksProxyUriEndpointInUseException XksProxyUriInUseException "
    "XksProxyUriUnreachableException XksProxyVpcEndpointServiceInUseException "
    "XksProxyVpcEndpointServiceInvalidConfigurationException XksProxyVpcEndpointServiceNotFoundException"
)

# A permanent refusal is about an object for S3, and about the queue that every job uses for SQS.
_REFUSED: dict[Service, Fault] = {"s3": Fault.JOB, "sqs": Fault.DEPLOYMENT}
_LISTED: dict[Service, dict[str, Fault]] = {
    "s3": dict.fromkeys(_S3_DEPENDENCY, Fault.DEPENDENCY) | dict.fromkeys(_S3_JOB, Fault.JOB),
    "sqs": dict.fromkeys(_SQS_DEPENDENCY, Fault.DEPENDENCY)
    | dict.fromkeys(_SQS_JOB, Fault.JOB)
    | dict.fromkeys(_SQS_DEPLOYMENT, Fault.DEPLOYMENT),
}
_EVERY_SERVICE = dict.fromkeys(_CREDENTIALS, Fault.DEPLOYMENT) | dict.fromkeys(_BUSY, Fault.DEPENDENCY)
_MAY_WORK_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


def listed_fault(service: Service, code: str) -> Fault | None:
    """Return the class of a documented code, or None."""
    code = code.rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")
    if code.startswith("KMS."):
        kms_code = code.removeprefix("KMS.")
        if kms_code in _KMS_DEPENDENCY:
            return Fault.DEPENDENCY
        return _REFUSED[service] if kms_code in _KMS_REFUSED else _EVERY_SERVICE.get(kms_code)
    return _LISTED[service].get(code) or _EVERY_SERVICE.get(code)


def fault_of_response(service: Service, response: Any) -> Fault:
    """Return the class of a ClientError's response."""
    error, status = response.get("Error", {}), response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(error.get("Code", ""))
    if service == "sqs" and message_is_gone(response):
        return Fault.JOB
    if listed := listed_fault(service, code):
        return listed
    if status is None and code.isdigit():
        status = int(code)
    return fault_of_status(service, status)


def fault_of_status(service: Service, status: int | None) -> Fault:
    """Return the class of an answer with an unknown code, or with a body that is not the service's."""
    if status == HTTPStatus.NOT_IMPLEMENTED:  # the store has no such operation, and will not have it later
        return _REFUSED[service]
    if status is None or status in _MAY_WORK_LATER:
        return Fault.DEPENDENCY
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _REFUSED[service]
    return Fault.DEPENDENCY


def message_is_gone(response: Any) -> bool:
    """Return whether SQS reports that a receipt handle has no message: it expired, was deleted, purged or redelivered."""
    error = response.get("Error", {})
    code = str(error.get("Code", "")).rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")
    if code in _SQS_JOB:
        return True
    # The same code reports every other invalid parameter, so the text decides.
    text = str(error.get("Message", "")).lower()
    return code == "InvalidParameterValue" and (
        "receipt handle has expired" in text
        or "message does not exist" in text
        or "not available for visibility" in text
    )
