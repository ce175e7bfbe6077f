"""Run `transcriptd models` as a separate process, with its own cache and a hub on loopback."""

import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.models.hub import COMMIT, FakeHub

WITHHELD_PREFIXES = ("AWS_", "TRANSCRIPTD_", "WEBHOOK_", "HF_", "HUGGING_FACE_", "TORCH_HOME", "XDG_")
TIMEOUT_SECONDS = 180

BASE = "Systran/faster-whisper-base"
CLOSED_PORT = "http://127.0.0.1:9"  # the discard port: nothing listens there


def small_whisper(seed: int = 0, size: int = 300_000) -> dict[str, bytes]:
    """Return the files of a Whisper repository with `size` bytes of random weights."""
    return {
        "config.json": b"{}",
        "model.bin": random.Random(seed).randbytes(size),
        "tokenizer.json": b"[]",
        "vocabulary.txt": b"a\nb\n",
        "README.md": b"# not needed",
    }


@dataclass
class Machine:
    """An instance: its model cache and its environment."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD_PREFIXES)}
        return {
            **inherited,
            "HF_HOME": str(self.home / "huggingface"),
            "TORCH_HOME": str(self.home / "torch"),
            "HF_ENDPOINT": CLOSED_PORT,
            "TRANSCRIPTD_MODEL": "base",
            **self.environment,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "daemon", "models", *arguments]

    def models(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def succeed(self, *arguments: str) -> str:
        done = self.models(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fail(self, *arguments: str, status: int = 1) -> str:
        """Run the command, which must fail, and return its stderr, which must be a message without a traceback."""
        done = self.models(*arguments)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def use(self, hub: FakeHub) -> None:
        self.environment["HF_ENDPOINT"] = hub.base_url

    def folder(self, repository: str = BASE) -> Path:
        return self.home / "huggingface" / "hub" / f"models--{repository.replace('/', '--')}"

    def snapshot(self, repository: str = BASE) -> Path:
        return self.folder(repository) / "snapshots" / COMMIT

    def reference(self, repository: str = BASE) -> Path:
        return self.folder(repository) / "refs" / "main"
