"""Sessions whose credentials follow the shared credentials file.

Botocore reads the file once. Credentials that another program rotates there would expire while the daemon runs.
"""

import logging
import os
from pathlib import Path

import aioboto3
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError

log = logging.getLogger("transcriptd.aws")

FILE_METHODS = ("shared-credentials-file", "config-file")

Stamps = tuple[tuple[int, int, int] | None, ...]


async def open_session() -> aioboto3.Session:
    """Return a session. Raises botocore's errors for a profile or a file that cannot be used."""
    inner = AioSession()
    credentials = await inner.get_credentials()
    if credentials is not None and credentials.method in FILE_METHODS:
        inner._credentials = FileCredentials(credentials, inner)  # type: ignore[attr-defined]  # what the session has found
    return aioboto3.Session(botocore_session=inner)


class FileCredentials(AioCredentials):
    """Static credentials that are read again when one of the files has changed."""

    def __init__(self, first: AioCredentials, session: AioSession) -> None:
        super().__init__(first.access_key, first.secret_key, first.token, method=first.method)
        names = (session.get_config_variable("credentials_file"), session.get_config_variable("config_file"))
        self._paths = tuple(Path(os.path.expandvars(name)).expanduser() for name in names)
        self._stamps = self._read_stamps()

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:  # type: ignore[override]  # as in aiobotocore
        """Called by botocore for every request that it signs."""
        if (stamps := self._read_stamps()) != self._stamps and await self._load():
            self._stamps = stamps
        return await super().get_frozen_credentials()

    async def _load(self) -> bool:
        """Return whether the files have credentials: a file may be incomplete while another program writes it."""
        try:
            found = await AioSession().get_credentials()
        except BotoCoreError as error:
            log.debug("credentials not read again", extra={"error": type(error).__name__})
            return False
        if found is None or found.method not in FILE_METHODS:
            return False
        self.access_key, self.secret_key, self.token = found.access_key, found.secret_key, found.token
        log.info("credentials read again")
        return True

    def _read_stamps(self) -> Stamps:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
