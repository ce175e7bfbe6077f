"""Runs the real daemon as a child process, with access to its log, its HTTP address and its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

STOP_TIMEOUT_SECONDS = 60
# Variables that configure the daemon are not inherited: the caller passes them explicitly.
WITHHELD_PREFIXES = ("AWS_", "TRANSCRIPTD_", "WEBHOOK_", "HF_TOKEN", "DEBUG", "OTEL_", "TRACEPARENT", "TRACESTATE")


class DaemonProcess:
    """Context manager that starts `transcriptd run`; on exit, it sends SIGTERM and waits for the process.

    `command` starts another daemon, such as an installed one. With `inherit=False`, the process gets only `environment`.
    """

    def __init__(
        self,
        environment: dict[str, str],
        log_path: Path,
        command: Sequence[str] = (sys.executable, "-m", "daemon", "run"),
        *,
        inherit: bool = True,
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD_PREFIXES)}
        ours = {**inherited, "TRANSCRIPTD_HTTP_PORT": "0"} if inherit else {}
        self._environment = {**ours, **environment}
        self._command = list(command)
        self.log_path = log_path

    def __enter__(self) -> Self:
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(  # noqa: S603  # the command comes from the caller's code
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, with_signal: int = signal.SIGTERM, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> int:
        """Send the signal, wait for the process to exit, and return its exit status. Kills it after the timeout."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def wait_until_ready(self, timeout_seconds: float) -> bool:
        """Wait until /readyz returns 200. Returns False on timeout, or as soon as the process exits."""
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
        """Return the response body of a GET. Raises OSError if the request fails (urllib.error.URLError is one)."""
        started = next(self.log_entries("listening"), None)
        if started is None:
            raise urllib.error.URLError("not listening yet")
        with urllib.request.urlopen(f"http://127.0.0.1:{started['port']}{path}", timeout=timeout_seconds) as response:
            return str(response.read().decode())

    def log_entries(self, event: str | None = None) -> Any:
        """Yield the log entries so far, optionally of one event only."""
        for line in self.log_path.read_text(errors="replace").splitlines():
            entry = json.loads(line) if line.startswith("{") else {"event": "unstructured", "line": line}
            if event in (None, entry.get("event")):
                yield entry

    def log_tail(self, lines: int = 12) -> list[str]:
        return self.log_path.read_text(errors="replace").splitlines()[-lines:]
