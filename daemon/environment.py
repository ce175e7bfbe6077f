"""The environment before anything reads it: an empty variable is the same as an unset one.

Compose files and templates write `NAME=` for a value that was left out. Libraries disagree on its meaning: botocore, for
example, looks for a profile without a name.
"""

import os

# Only variables that configure the daemon and its connections. An empty CUDA_VISIBLE_DEVICES has a meaning of its own.
PREFIXES = ("TRANSCRIPTD_", "WEBHOOK_", "AWS_", "HF_", "OTEL_")
NAMES = frozenset(
    "DEBUG HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "TRACEPARENT TRACESTATE TORCH_HOME XDG_CACHE_HOME TMPDIR NOTIFY_SOCKET WATCHDOG_USEC".split()
)


def drop_empty_variables() -> None:
    """Remove empty variables from this process's environment, and so from its children's."""
    for name, value in list(os.environ.items()):
        if not value.strip() and (name.upper().startswith(PREFIXES) or name.upper() in NAMES):
            del os.environ[name]


def minimal_environment() -> dict[str, str]:
    """Return the environment of a child that handles untrusted data: no credentials, no proxies, no PYTHON* variables."""
    environment = {"LC_ALL": "C.UTF-8"}
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries  # some interpreters need it to find libpython
    return environment
