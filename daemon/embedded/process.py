"""The real daemon as a process of its own, seen from outside: its environment, its log, its HTTP address, its exit."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

STOP_TIMEOUT_SECONDS = 60
# Only these of our own variables reach it: the rest of its world is said explicitly.
WITHHELD_PREFIXES = ("AWS_", "TRANSCRIPTD_", "WEBHOOK_", "HF_TOKEN", "DEBUG", "OTEL_", "TRACEPARENT", "TRACESTATE")


class DaemonProcess:
    """`with DaemonProcess(environment, log_path) as daemon:` starts `transcriptd run`; leaving sends SIGTERM and waits."""

    def __init__(self, environment: dict[str, str], log_path: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD_PREFIXES)}
        self._environment = {**inherited, "TRANSCRIPTD_HTTP_PORT": "0", **environment}
        self.log_path = log_path

    def __enter__(self) -> Self:
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon", "run"], env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            return self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def wait_until_ready(self, timeout_seconds: float) -> bool:
        """Whether /readyz answered 200 in time; False at once when the process ended."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/readyz")
            except OSError:  # not listening yet, or 503
                time.sleep(0.1)
            else:
                return True
        return False

    def get(self, path: str, timeout_seconds: float = 10) -> str:
        """The body of a GET. Raises OSError (urllib.error.URLError among it) when there is none or it is an error."""
        started = next(self.log_entries("listening"), None)
        if started is None:
            raise urllib.error.URLError("not listening yet")
        with urllib.request.urlopen(f"http://127.0.0.1:{started['port']}{path}", timeout=timeout_seconds) as response:
            return str(response.read().decode())

    def log_entries(self, event: str | None = None) -> Any:
        """The log so far, line by line, or only the lines of one event."""
        for line in self.log_path.read_text(errors="replace").splitlines():
            entry = json.loads(line) if line.startswith("{") else {"event": "unstructured", "line": line}
            if event in (None, entry.get("event")):
                yield entry

    def log_tail(self, lines: int = 12) -> list[str]:
        return self.log_path.read_text(errors="replace").splitlines()[-lines:]
