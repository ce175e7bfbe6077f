"""Secrets as files instead of variables: a file in `$CREDENTIALS_DIRECTORY` with the name of the variable.

systemd's LoadCredential= provides this folder. Unlike variables, files do not appear in /proc/PID/environ, and child processes
do not inherit them. https://systemd.io/CREDENTIALS/
"""

import os
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from daemon.errors import ConfigError


def secret_names(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the settings that are secrets: field → environment variable."""
    return {
        name: str(field.validation_alias.choices[-1])
        for name, field in settings.model_fields.items()
        if "SecretStr" in repr(field.annotation) and isinstance(field.validation_alias, AliasChoices)
    }


class CredentialFiles(PydanticBaseSettingsSource):
    """The secrets that have a file and no variable. Raises ConfigError for a file that cannot be read."""

    def __call__(self) -> dict[str, Any]:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            return {}
        return {
            name: value
            for name, variable in secret_names(self.settings_cls).items()
            if not os.environ.get(variable) and (value := _read(Path(folder) / variable))
        }

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("all fields are read at once")


def _read(path: Path) -> str:
    """Return the content without surrounding white space; empty if there is no such file."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(
            f"the credential {path} cannot be read ({reason}); check the file and its permissions"
        ) from None


class CredentialSettings(BaseSettings):
    """Base of settings whose secrets may be files. A variable takes precedence over a file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # there is no such file
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, CredentialFiles(settings_cls)
