"""`transcriptd dev`: an embedded AWS, the real daemon and a webhook receiver, until Ctrl-C. Everything listens on loopback.

Standard output has the shell variables for another terminal, and nothing else: `transcriptd dev > dev.env`.
"""

import os
import queue
import shlex
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from daemon.container_init import STOP_SIGNALS
from daemon.demo.aws import EmbeddedAws
from daemon.demo.environment import client_environment, daemon_environment, new_secret
from daemon.demo.process import DaemonProcess
from daemon.demo.receiver import SeenEvent, WebhookReceiver
from daemon.schema.job_status import STAGE_NAMES

# Variables of a shell that would lead the commands elsewhere.
UNSET = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_S3",
    "TRANSCRIPTD_OUTPUT_PREFIX",
    "TRANSCRIPTD_PROFILES",
)
# Settings of an instance. Any other setting of the user's applies to this daemon.
NOT_HERE = (
    "TRANSCRIPTD_HOST",
    "TRANSCRIPTD_AUTOSCALING_GROUP",
    "TRANSCRIPTD_LAUNCH_HOOK",
    "TRANSCRIPTD_TERMINATION_HOOK",
    "TRANSCRIPTD_IDLE_EXIT_SECONDS",
)
MODELS = ("TRANSCRIPTD_MODEL", "TRANSCRIPTD_MODELS")  # which models the commands accept
POLL_SECONDS = 0.5

console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def dev(model: str) -> int:
    """Run until a signal to stop, or until the daemon exits, which is a failure."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="transcriptd-dev-") as folder:
            return _run(Path(folder), model)
    except KeyboardInterrupt:
        console.print("stopped")
        return 0


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """Begin to stop. Further signals must not cut it short: it takes a moment, and children would stay."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(folder: Path, model: str) -> int:
    events: queue.SimpleQueue[SeenEvent] = queue.SimpleQueue()
    secret, log = new_secret(), folder / "daemon.log"
    with EmbeddedAws() as aws, WebhookReceiver(secret, events.put) as receiver:
        environment = {
            **_user_settings(),
            **daemon_environment(aws, receiver, secret, folder / "scratch", model),
            "TRANSCRIPTD_DRAIN_TIMEOUT_SECONDS": "0",  # the queue ends with this process
            "TRANSCRIPTD_HTTP_HOST": "127.0.0.1",
        }
        with DaemonProcess(environment, log) as daemon:
            models = {name: environment[name] for name in MODELS if name in environment}
            print(_exports({**client_environment(aws, receiver, secret), **models}), flush=True)
            console.print(f"the daemon is starting; its log: {log}")
            ready = False
            while daemon.process.poll() is None:
                if not ready and (ready := daemon.wait_until_ready(POLL_SECONDS)):
                    console.print(_READY.format(port=next(daemon.log_entries("listening"))["port"]))
                _show_events(events, POLL_SECONDS if ready else 0)
            console.print(f"the daemon exited with status {daemon.process.returncode}; the end of its log:")
            console.print("\n".join(daemon.log_tail()))
    return 1


def _user_settings() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith("TRANSCRIPTD_") and name not in NOT_HERE
    }


_READY = """\
ready; status page: http://127.0.0.1:{port}/
in another terminal, set the variables above, then try: transcriptd submit talk.mp3 --watch
events follow; Ctrl-C stops and removes everything"""


def _exports(variables: dict[str, str]) -> str:
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([f"unset {' '.join(UNSET)}", *lines])


def _show_events(events: "queue.SimpleQueue[SeenEvent]", wait_seconds: float) -> None:
    """Print the events that have arrived; wait for the first one."""
    try:
        while True:
            console.print(_line(events.get(timeout=wait_seconds)))
            wait_seconds = 0
    except queue.Empty:
        pass


def _line(seen: SeenEvent) -> str:
    data: dict[str, Any] = seen.event["data"]
    words = [time.strftime("%H:%M:%S"), f"{seen.event['type']:<13}", data.get("job_id") or ""]
    if progress := data.get("progress"):
        words.append(f"{progress['overall_fraction']:.0%} {STAGE_NAMES.get(progress['stage'], progress['stage'])}")
    if error := data.get("error"):
        words.append(f"{error['code']}: {error['message']}")
    if not seen.verified:
        words.append("(signature invalid)")
    line = "  ".join(words)
    return "".join(character if character.isprintable() else " " for character in line)
