"""Sessions whose credentials follow rotation: they are looked up again when a credentials file changes, and when AWS refuses
them.

Botocore looks most kinds of credentials up once. Credentials that another program rotates would expire while the daemon runs.
"""

import asyncio
import logging
import os
import time
from http import HTTPMethod
from pathlib import Path
from typing import Any

import aioboto3
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import OperationModel

from daemon.telemetry.redaction import describe

log = logging.getLogger("transcriptd.aws")

FILE_METHODS = ("shared-credentials-file", "config-file")
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and the common errors of SQS and Auto Scaling.
# A wrong signature is one of them: the secret of a key may be replaced alone.
WRONG_CREDENTIALS = {
    *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"),
    *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidSignatureException"),
}
# Codes that botocore makes of the status of a HEAD request, whose answer has no body.
_WRONG_WITHOUT_BODY = {"400", "403"}
# Credentials that are still refused are not looked up more often: a lookup may call STS or start a program.
LOOKUP_PERIOD_SECONDS = 5.0
_SIGNED_WITH = "transcriptd_signed_with"

Stamps = tuple[tuple[int, int, int] | None, ...]


async def open_session() -> aioboto3.Session:
    """Return a session. Raises botocore's errors for a profile or a file that cannot be used."""
    inner = AioSession()
    found = await inner.get_credentials()
    if found is not None:
        credentials = RotatedCredentials(found, inner)
        inner._credentials = credentials  # type: ignore[attr-defined]  # what the session has found
        inner.register("before-sign", credentials.note_signature)
        inner.register("needs-retry", credentials.retry_if_renewed)
    return aioboto3.Session(botocore_session=inner)


class RotatedCredentials(AioCredentials):
    """The credentials that the environment names, looked up again after they were rotated."""

    def __init__(self, found: AioCredentials, session: AioSession) -> None:
        # Botocore signs with get_frozen_credentials alone. The properties of the base class would be outdated.
        super().__init__("", "", method=found.method)
        self._found = found
        names = (session.get_config_variable("credentials_file"), session.get_config_variable("config_file"))
        self._paths = tuple(Path(os.path.expandvars(name)).expanduser() for name in names)
        self._stamps = self._read_stamps()
        self._lookup = asyncio.Lock()
        self._next_lookup_at = 0.0  # monotonic

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:  # type: ignore[override]  # as in aiobotocore
        """Called by botocore for every request that it signs."""
        stamps = self._read_stamps()
        if self._found.method in FILE_METHODS and stamps != self._stamps and await self._look_up():
            self._stamps = stamps
        return await self._found.get_frozen_credentials()

    async def note_signature(self, request: AWSRequest, **_: Any) -> None:
        """Note which credentials sign a request: other ones may be current when its answer arrives."""
        request.context[_SIGNED_WITH] = await self.get_frozen_credentials()

    async def retry_if_renewed(
        self, response: Any, operation: OperationModel, request_dict: dict[str, Any], **_: Any
    ) -> float | None:
        """Have botocore sign and send a request again if AWS refused its credentials and there are other ones now."""
        signed_with = request_dict["context"].pop(_SIGNED_WITH, None)
        if signed_with is None or response is None or not _refuses_credentials(response[1], operation):
            return None
        return 0 if await self._renewed(signed_with) else None

    async def _renewed(self, refused: ReadOnlyCredentials) -> bool:
        """Return whether the credentials differ from the refused ones; look them up again if they do not."""
        async with self._lookup:
            if await self.get_frozen_credentials() != refused:
                return True
            now = time.monotonic()
            if now < self._next_lookup_at or not await self._look_up():
                return False
            if await self._found.get_frozen_credentials() != refused:
                return True
            self._next_lookup_at = now + LOOKUP_PERIOD_SECONDS
            return False

    async def _look_up(self) -> bool:
        """Return whether there are credentials: a file may be incomplete while another program writes it."""
        try:
            found = await AioSession().get_credentials()
            if found is None or (self._found.method in FILE_METHODS and found.method not in FILE_METHODS):
                return False
            changed = await found.get_frozen_credentials() != await self._found.get_frozen_credentials()
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            log.debug("credentials not read again", extra={"error": describe(error)})
            return False
        self._found = found
        if changed:
            log.info("credentials read again")
        return True

    def _read_stamps(self) -> Stamps:
        return tuple(_stamp(path) for path in self._paths)


def _refuses_credentials(answer: dict[str, Any], operation: OperationModel) -> bool:
    code = str(answer.get("Error", {}).get("Code", "")).rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")
    return code in WRONG_CREDENTIALS or (
        code in _WRONG_WITHOUT_BODY and operation.http.get("method") == HTTPMethod.HEAD
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
