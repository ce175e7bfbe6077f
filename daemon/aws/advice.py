"""What to do about a call that S3 denied, by the operation that was called and the cause that S3 names."""

from botocore.exceptions import ClientError

_LISTING = "s3:ListBucket on the bucket (without it, S3 returns 403 for a missing object)"
_READING = (
    f"the role needs s3:GetObject, s3:GetObjectVersion for a version_id, and {_LISTING}; for a requester-pays bucket set "
    "TRANSCRIPTD_REQUESTER_PAYS=true"
)
_BY_OPERATION = {
    "GetObject": _READING,
    "HeadObject": _READING,
    "PutObject": (
        "the role needs s3:PutObject, s3:PutObjectTagging with a checkpoint tag, and s3:PutObjectAcl with an ACL; if the "
        "bucket's policy demands encryption or an ACL, set TRANSCRIPTD_OUTPUT_ENCRYPTION, TRANSCRIPTD_OUTPUT_KMS_KEY_ID or "
        "TRANSCRIPTD_OUTPUT_ACL"
    ),
    "DeleteObjects": "the role needs s3:DeleteObject",
    "HeadBucket": f"the role needs {_LISTING}",
    "ListObjectsV2": f"the role needs {_LISTING}",
}
_KMS_BY_CAUSE = {
    "KMS.DisabledException": "the KMS key is disabled: enable it",
    "KMS.NotFoundException": "the KMS key does not exist: correct TRANSCRIPTD_OUTPUT_KMS_KEY_ID or the bucket's default key",
    "KMS.KMSInvalidStateException": "the KMS key is not usable, for example because it is to be deleted: restore it",
    "KMS.InvalidStateException": "the KMS key is not usable, for example because it is to be deleted: restore it",
}


def advice_on(denied: ClientError) -> str:
    """Return the cure for a denied call, as the second half of a sentence."""
    error = denied.response.get("Error", {})
    code, message = error.get("Code", ""), error.get("Message", "")
    if code in _KMS_BY_CAUSE:
        return _KMS_BY_CAUSE[code]
    if code.startswith("KMS.") or "kms:" in message:
        writing = "kms:GenerateDataKey and kms:Decrypt" if denied.operation_name == "PutObject" else "kms:Decrypt"
        return f"the role needs {writing} on the object's KMS key, and the key's policy must allow it"
    return _BY_OPERATION.get(denied.operation_name, f"the role may not call {denied.operation_name}")
