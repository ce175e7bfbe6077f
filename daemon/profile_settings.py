"""The setting for the file of profiles. Part of `Settings` in config.py."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from daemon.schema.profiles import Profile, parse_profiles

MAX_FILE_BYTES = 1024**2


def _read(value: Any) -> Any:
    """Read the file, if the value is its path."""
    if not isinstance(value, str | Path):
        return value
    try:
        with Path(value).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{value}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{value}: larger than {MAX_FILE_BYTES} bytes")
    try:
        return parse_profiles(content.decode())
    except ValueError as error:
        raise ValueError(f"{value}: {error}") from error


# In the environment, the path of the file.
Profiles = Annotated[tuple[Profile, ...], NoDecode, BeforeValidator(_read)]
