"""The environment of a daemon that works with the embedded AWS and the packaged weights, for `demo` and `dev`."""

import base64
import secrets
from pathlib import Path

from daemon.demo.aws import EmbeddedAws
from daemon.demo.receiver import WebhookReceiver
from daemon.schema.catalog import EMBEDDED_DIARIZATION, EMBEDDED_WHISPER


def new_secret() -> str:
    """Return a secret to sign webhooks with."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def client_environment(aws: EmbeddedAws, receiver: WebhookReceiver, secret: str) -> dict[str, str]:
    """Return what a publisher, the commands and the daemon need alike."""
    return {
        **aws.environment,
        "WEBHOOK_URL": receiver.url,
        "WEBHOOK_SECRET": secret,
        "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP": "true",
    }


def daemon_environment(
    aws: EmbeddedAws, receiver: WebhookReceiver, secret: str, scratch: Path, model: str = EMBEDDED_WHISPER
) -> dict[str, str]:
    """Return all variables of the daemon. With the packaged model it needs no hub."""
    packaged = {"TRANSCRIPTD_MODELS": model, "TRANSCRIPTD_DIARIZATION_MODEL": EMBEDDED_DIARIZATION}
    return {
        **client_environment(aws, receiver, secret),
        **(packaged if model == EMBEDDED_WHISPER else {}),
        "TRANSCRIPTD_MODEL": model,
        "TRANSCRIPTD_SCRATCH_DIR": str(scratch),
        "TRANSCRIPTD_MIN_FREE_BYTES": "100000000",
        "TRANSCRIPTD_ALLOW_WEAK_SANDBOX": "true",  # the recordings are the user's own
        "TRANSCRIPTD_RECEIVE_WAIT_TIME_SECONDS": "1",
    }
