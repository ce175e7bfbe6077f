"""Command-line arguments of `transcriptd transcribe`, without imports that would slow down `--help`."""

import argparse

from daemon.cli.arguments import add_option, duration


def add_transcribe(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `transcribe`. Everything that a job can choose is an --option; some have a flag as well."""
    parser.add_argument("file", metavar="FILE", help="audio or video file; - reads standard input")
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        dest="formats",
        metavar="NAME",
        help="output format: json, md, txt, srt, vtt, ass, tsv or html; repeatable with --save; default: md",
    )
    parser.add_argument("--save", metavar="DIR", help="save the outputs to this new or empty directory instead")
    parser.add_argument("--language", metavar="CODE", help="language of the speech; default: detected")
    parser.add_argument("--speakers", type=int, metavar="N", help="exact number of speakers, if you know it")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a faster-whisper name such as large-v3, hub ID or folder; default: TRANSCRIPTD_MODEL, or embedded",
    )
    parser.add_argument("--start", type=duration, metavar="TIME", help="transcribe from this time, e.g. 90s or 1.5h")
    parser.add_argument("--end", type=duration, metavar="TIME", help="transcribe up to this time")
    add_option(parser, "any other job option, e.g. task=translate")
    parser.add_argument("--verbose", action="store_true", help="write the log to standard error")
    parser.set_defaults(call=_transcribe)


def _transcribe(arguments: argparse.Namespace) -> int:
    from daemon.cli.command import run
    from daemon.cli.transcribe import transcribe

    return run("transcribe", lambda: transcribe(arguments))
