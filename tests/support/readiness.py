"""The readiness of a running daemon."""

import json
import urllib.error

from daemon.demo.process import DaemonProcess


def readiness(daemon: DaemonProcess) -> tuple[bool, str | None]:
    """Return whether the daemon is ready, and the reason of the brake if it is engaged."""
    try:
        answer = json.loads(daemon.get("/readyz"))
    except urllib.error.HTTPError as error:
        answer = json.loads(error.read())
    return answer["ready"], answer["checks"]["brake"]["error"]
