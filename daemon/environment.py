"""The environment before anything reads it: an empty variable is the same as an unset one.

Compose files and templates write `NAME=` for a value that was left out. Libraries disagree on its meaning: botocore, for
example, looks for a profile without a name.
"""

import os
import platform
from contextlib import suppress
from pathlib import Path

# Only variables that configure the daemon and its connections. An empty CUDA_VISIBLE_DEVICES has a meaning of its own.
PREFIXES = ("TRANSCRIPTD_", "WEBHOOK_", "AWS_", "HF_", "OTEL_")
NAMES = frozenset(
    "DEBUG HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "TRACEPARENT TRACESTATE TORCH_HOME XDG_CACHE_HOME TMPDIR NOTIFY_SOCKET WATCHDOG_USEC".split()
)


# Files that contain or lead to credentials.
CREDENTIAL_FILES = (
    "CREDENTIALS_DIRECTORY",  # of systemd's LoadCredential=
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
)


def drop_empty_variables() -> None:
    """Remove empty variables from this process's environment, and so from its children's."""
    for name, value in list(os.environ.items()):
        if not value.strip() and (name.upper().startswith(PREFIXES) or name.upper() in NAMES):
            del os.environ[name]


def unsupported_system() -> str | None:
    """Return why this system cannot decode and transcribe, or None: the sandboxes are the Linux kernel's."""
    system = platform.system()
    if system == "Linux":
        return None
    return (
        f"this is {system}, and transcriptd needs Linux: use a Linux machine, or a container or virtual machine with it"
    )


def credential_paths() -> list[Path]:
    """Return the files and folders from which this process may have its credentials. They need not exist."""
    named = [Path(os.environ[name]) for name in CREDENTIAL_FILES if name in os.environ]
    with suppress(RuntimeError):  # no home
        named.append(Path.home() / ".aws")
    return named


def is_offline() -> bool:
    """Whether models may not be downloaded, as huggingface_hub reads it."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def minimal_environment() -> dict[str, str]:
    """Return the environment of a child that handles untrusted data: no credentials, no proxies, no PYTHON* variables."""
    environment = {"LC_ALL": "C.UTF-8"}
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries  # some interpreters need it to find libpython
    return environment
