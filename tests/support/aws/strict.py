"""An AWS whose SQS rejects stale receipt handles: ministack, in a process of its own.

Moto accepts the handle of an earlier delivery, so it cannot show whether a daemon uses one.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.waiting import PATIENCE_SECONDS
from daemon.demo.aws import EmbeddedAws

# The port is free when it is chosen, but another process may take it before ministack does.
START_ATTEMPTS = 3


class StrictAws(EmbeddedAws):
    """Context manager for the process."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transcriptd-ministack-")))
            self.log_path = folder / "ministack.log"
            url = next((url for _ in range(START_ATTEMPTS) if (url := self._start(folder, stack))), None)
            if url is None:
                raise RuntimeError(f"ministack does not start: {self.log_path.read_text()[-2000:]}")
            self.connect(url)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, folder: Path, stack: ExitStack) -> str | None:
        """Return the address, or None if the process exits before it answers."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            **{
                name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "LOCALSTACK_"))
            },
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "MINISTACK_HOST": "127.0.0.1",
            "SERVICES": "sqs,s3",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "TMPDIR": str(folder),
        }
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", "ministack"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(_end, process)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=5).close()
            except OSError:
                time.sleep(0.1)
            else:
                return f"http://127.0.0.1:{port}"
        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
