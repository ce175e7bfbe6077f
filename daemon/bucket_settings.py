"""Settings for the place of results, and for buckets and S3-compatible stores with special needs. Part of `Settings` in config.py.

They apply to every S3 client: the daemon's, the commands' and that of the models' mirror.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

# In the environment, `a,b` rather than JSON.
Names = Annotated[tuple[str, ...], NoDecode]


def allows(allowed: tuple[str, ...], name: str) -> bool:
    """Return whether an allow-list contains the name; `*` alone allows every name."""
    return allowed == ("*",) or name in allowed


class BucketSettings(BaseSettings):
    output_bucket: str | None = Field(None, description="bucket for the results of jobs that name none")
    output_buckets: Names = Field(
        (), description="further buckets that jobs may write to; with `*`, only the instance role limits them"
    )
    output_prefix: str = Field(
        "transcripts/", description="key prefix for the results of jobs that name none; `/` is the root of the bucket"
    )
    output_prefixes: Names = Field(
        (),
        description="further prefixes below which jobs may place their results; below `TRANSCRIPTD_OUTPUT_PREFIX` they always may, and with `*` anywhere",
    )
    output_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        None,
        description="server-side encryption that is requested for each object written; without it, the bucket's default applies",
    )
    output_kms_key_id: str | None = Field(
        None,
        min_length=1,
        description="ID or ARN of the KMS key for `aws:kms` and `aws:kms:dsse`; without it, the AWS managed key",
    )
    output_acl: Literal["private", "bucket-owner-read", "bucket-owner-full-control"] | None = Field(
        None,
        description="canned ACL of each object written, for an output bucket of another account; needs s3:PutObjectAcl",
    )
    requester_pays: bool = Field(
        False, description="accept to pay for the requests to requester-pays buckets, which refuse other requests"
    )
    s3_addressing_style: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="how URLs name the bucket, for S3-compatible stores: `auto` is a path for a store that `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names",
    )

    @field_validator("output_prefix")
    @classmethod
    def _end_prefix(cls, value: str) -> str:
        return "" if value in ("", "/") else value if value.endswith("/") else value + "/"

    @field_validator("output_prefixes")
    @classmethod
    def _end_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each if each == "*" else cls._end_prefix(each) for each in value)

    def allows_prefix(self, prefix: str) -> bool:
        """Return whether a job may place its results below this prefix, which is empty or ends with `/`."""
        return self.output_prefixes == ("*",) or prefix.startswith((self.output_prefix, *self.output_prefixes))

    def allows_output(self, bucket: str, prefix: str) -> bool:
        """Return whether jobs may place their results there."""
        known_bucket = bucket == self.output_bucket or allows(self.output_buckets, bucket)
        return known_bucket and self.allows_prefix(prefix)

    @property
    def write_parameters(self) -> dict[str, Any]:
        """Parameters of S3's calls that write an object."""
        wanted = {
            "ServerSideEncryption": self.output_encryption,
            "SSEKMSKeyId": self.output_kms_key_id,
            "ACL": self.output_acl,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    @property
    def s3_options(self) -> Any:
        """Value of `s3` in botocore's configuration of a client."""
        return {"addressing_style": self.s3_addressing_style}

    def prepare_client(self, client: Any) -> None:
        """Let every call of an S3 client of boto3 or aioboto3 meet the settings that are not parameters of the call."""
        if self.requester_pays:
            client.meta.events.register("before-call.s3", _accept_to_pay)

    @model_validator(mode="after")
    def _check_buckets(self) -> Self:
        if self.output_kms_key_id is not None and self.output_encryption not in ("aws:kms", "aws:kms:dsse"):
            raise ValueError("output_kms_key_id needs output_encryption=aws:kms or aws:kms:dsse")
        return self


def _accept_to_pay(params: dict[str, Any], **_: Any) -> None:
    """Add the header to every call. S3 ignores it for buckets whose owner pays."""
    params["headers"]["x-amz-request-payer"] = "requester"
