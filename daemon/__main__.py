"""The command line. Imports only what a command needs: `--help` answers at once."""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="transcriptd", description="Turn an SQS queue of recordings into transcripts."
    )
    parser.add_argument("--version", action="version", version=f"transcriptd {version('transcriptd')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the daemon; settings come from the environment (docs/configuration.md)")
    run.set_defaults(call=lambda _: _run())
    demo = commands.add_parser("demo", help="run the main job on this machine: no cloud, no account, no token")
    demo.add_argument("file", nargs="?", type=Path, help="an audio or video file of yours; default: a sample call")
    demo.set_defaults(call=lambda arguments: _demo(arguments.file))
    _add_models(commands.add_parser("models", help="fetch, mirror and verify model weights (docs/models.md)"))
    arguments = parser.parse_args()
    return int(arguments.call(arguments))


def _add_models(parser: argparse.ArgumentParser) -> None:
    needed = argparse.ArgumentParser(add_help=False)
    needed.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="a Whisper model, instead of the settings'; repeatable",
    )
    needed.add_argument(
        "--language", action="append", default=[], metavar="CODE", help="add its alignment model; repeatable"
    )
    needed.add_argument("--no-diarization", action="store_true", help="leave out the diarization pipeline")
    pinned = argparse.ArgumentParser(add_help=False)
    pinned.add_argument(
        "--revision", action="append", default=[], metavar="REPO=COMMIT", help="pin a repository; repeatable"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser(
        "fetch", parents=[needed, pinned], help="bring what the settings need into the cache (HF_HOME, TORCH_HOME)"
    )
    fetch.add_argument("--from", dest="source", metavar="S3_URL", help="a mirror, s3://bucket/prefix; default: the hub")
    mirror = actions.add_parser("mirror", parents=[needed, pinned], help="copy the same from the cache to S3")
    mirror.add_argument("--to", dest="target", required=True, metavar="S3_URL", help="s3://bucket/prefix")
    actions.add_parser(
        "verify", parents=[needed], help="check the cache; non-zero where anything is missing or damaged"
    )
    parser.set_defaults(call=_models)


def _models(arguments: argparse.Namespace) -> int:
    from daemon.models.command import run

    return run(arguments)


def _run() -> int:
    import asyncio

    from daemon.config import load_settings
    from daemon.errors import ConfigError
    from daemon.launcher import EXIT_CONFIG, serve
    from daemon.logs import configure

    try:
        settings = load_settings()
        configure(settings.logging_level, "poller")
        return asyncio.run(serve(settings))
    except ConfigError as error:
        print(f"transcriptd: {error.message}", file=sys.stderr)
        return EXIT_CONFIG


def _demo(file: Path | None) -> int:
    from daemon.embedded.demo import demo

    return demo(file)


if __name__ == "__main__":
    sys.exit(main())
