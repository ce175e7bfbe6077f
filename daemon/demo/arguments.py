"""Command-line arguments of `transcriptd demo` and `dev`, without imports that would slow down `--help`."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.environment import unsupported_system
from daemon.schema.catalog import EMBEDDED_WHISPER

EXIT_FAILED = 1
EMULATOR = "moto"  # the package of the embedded AWS


def add_embedded(commands: Any) -> None:
    """Declare `demo` and `dev`."""
    demo = commands.add_parser(
        "demo", help="see the daemon work, end to end, on this machine; needs no cloud, account or token"
    )
    demo.add_argument("file", nargs="?", type=Path, help="audio or video file; default: a sample call")
    demo.add_argument(
        "--save",
        type=Path,
        default=Path("transcriptd-demo"),
        metavar="DIR",
        help="directory for the outputs; default: transcriptd-demo",
    )
    demo.set_defaults(call=_demo)
    dev = commands.add_parser("dev", help="run the daemon with an embedded AWS, for the other commands; until Ctrl-C")
    dev.add_argument(
        "--model",
        default=os.environ.get("TRANSCRIPTD_MODEL", EMBEDDED_WHISPER),
        metavar="NAME",
        help=f"Whisper model; default: TRANSCRIPTD_MODEL, or {EMBEDDED_WHISPER}",
    )
    dev.set_defaults(call=_dev)


def _demo(arguments: argparse.Namespace) -> int:
    def call() -> int:
        from daemon.demo.command import demo

        return demo(arguments.file, arguments.save)

    return _run("demo", call)


def _dev(arguments: argparse.Namespace) -> int:
    def call() -> int:
        from daemon.demo.dev import dev

        return dev(arguments.model)

    return _run("dev", call)


def _run(name: str, call: Callable[[], int]) -> int:
    problem = unsupported_system()
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[variable]  # nothing may reach the user's own AWS, and a profile that is not there stops botocore
    if problem is None:
        try:
            return call()
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != EMULATOR:
                raise
            problem = "the embedded AWS is not installed; install transcriptd[embedded]"
    print(f"transcriptd {name}: {problem}", file=sys.stderr)
    return EXIT_FAILED
