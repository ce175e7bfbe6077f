"""Run the command line as users do: in a separate process with a controlled environment."""

import os
import subprocess
import sys
from typing import Any

from daemon.demo.process import WITHHELD_PREFIXES

# Prevents a hang on a busy machine; it does not measure speed.
TIMEOUT_SECONDS = 180


def environment(variables: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD_PREFIXES)}
    return {**inherited, "COLUMNS": "200", **variables}


def run_tool(variables: dict[str, str], *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run `transcriptd WORDS` until it exits."""
    return subprocess.run(
        [sys.executable, "-m", "daemon", *words],
        env=environment(variables),
        input=typed,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def start_tool(variables: dict[str, str], *words: str) -> "subprocess.Popen[str]":
    """Start `transcriptd WORDS` with pipes and return the running process."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-m", "daemon", *words], env=environment(variables), text=True, **pipes)
