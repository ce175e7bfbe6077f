"""What `transcriptd models` takes on the command line. Imports nothing of weight: `--help` answers at once."""

import argparse
from pathlib import Path


def add_models(parser: argparse.ArgumentParser) -> None:
    """Declare `fetch`, `mirror` and `verify`."""
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
    needed.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="take settings from this file, as systemd does, besides the environment's",
    )
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
