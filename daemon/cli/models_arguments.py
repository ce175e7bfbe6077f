"""Command-line arguments of `transcriptd models`, without imports that would slow down `--help`."""

import argparse
from pathlib import Path


def add_models(parser: argparse.ArgumentParser) -> None:
    """Declare `fetch`, `mirror`, `verify` and `pin`."""
    needed = argparse.ArgumentParser(add_help=False)
    needed.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="Whisper model, instead of the configured ones; repeatable",
    )
    needed.add_argument(
        "--language",
        action="append",
        default=[],
        metavar="CODE",
        help="add the alignment model of this language; repeatable",
    )
    needed.add_argument("--no-diarization", action="store_true", help="skip the diarization pipeline")
    needed.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="read settings from this file in systemd's format, or from standard input (-); the environment takes precedence",
    )
    pinned = argparse.ArgumentParser(add_help=False)
    pinned.add_argument(
        "--revision",
        action="append",
        default=[],
        metavar="REPO=COMMIT",
        help="pin a repository to a commit; repeatable",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser(
        "fetch",
        parents=[needed, pinned],
        help="fetch the models that the settings need into the cache (HF_HOME, TORCH_HOME)",
    )
    fetch.add_argument(
        "--from", dest="source", metavar="S3_URL", help="fetch from a mirror, s3://bucket/prefix; default: the hub"
    )
    mirror = actions.add_parser("mirror", parents=[needed, pinned], help="copy these models from the cache to S3")
    mirror.add_argument("--to", dest="target", required=True, metavar="S3_URL", help="s3://bucket/prefix")
    actions.add_parser(
        "verify", parents=[needed], help="verify the cache; exit non-zero if a file is missing or damaged"
    )
    pin = actions.add_parser("pin", parents=[needed], help="pin the revisions and SHA-256 of these models in the cache")
    pin.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="manifest to update; default: TRANSCRIPTD_WEIGHTS_MANIFEST, otherwise the pins of this installation",
    )
    parser.set_defaults(call=_models)


def _models(arguments: argparse.Namespace) -> int:
    from daemon.cli.models import run

    return run(arguments)
