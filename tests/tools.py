"""The command line as people run it: a process of its own that knows only its environment."""

import os
import subprocess
import sys
from typing import Any

from daemon.embedded.process import WITHHELD_PREFIXES

# A bound on life on a busy machine, not a measure of speed.
TIMEOUT_SECONDS = 180


def environment(variables: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD_PREFIXES)}
    return {**inherited, "COLUMNS": "200", **variables}


def run_tool(variables: dict[str, str], *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """`transcriptd WORDS`, to its end."""
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
    """The same, running, with pipes."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-m", "daemon", *words], env=environment(variables), text=True, **pipes)
