"""What the tools take on the command line. Imports nothing of weight: `transcriptd --help` answers at once."""

import argparse
import re
from collections.abc import Callable
from typing import Any

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Call = Callable[[argparse.Namespace], int]


def add_tools(commands: Any) -> None:
    """Declare `check`, `dlq`, `submit` and `watch`."""
    _add_check(
        commands.add_parser("check", help="look whether the daemon can work here, and say what to do where it cannot")
    )
    _add_dlq(commands.add_parser("dlq", help="look into the dead-letter queue; send its messages back or delete them"))
    _add_submit(commands.add_parser("submit", help="publish a job for an object in S3 or a file of yours"))
    _add_watch(commands.add_parser("watch", help="follow a job to its end and fetch its transcript"))


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these checks alone; docs/tools.md lists them")
    parser.add_argument("--skip", nargs="+", metavar="NAME", help="all checks but these")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(call=_check)


def _add_dlq(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="one line for each message")
    listing.add_argument("--reason", metavar="CODE", help="only those with this code")
    listing.add_argument("--job", metavar="ID", help="only those of this job")
    listing.add_argument("--json", action="store_true", help="one JSON object per line")
    show = actions.add_parser("show", help="everything about one message or job")
    show.add_argument("id", metavar="ID", help="message id, its first 8 characters or more, or job id")
    redrive = actions.add_parser("redrive", help="send messages back to the job queue, then delete them here")
    _add_selection(redrive)
    redrive.add_argument("--rate", type=_positive, default=5.0, metavar="N", help="messages per second; default: 5")
    redrive.add_argument(
        "--set",
        action="append",
        default=[],
        dest="edits",
        metavar="PATH=VALUE",
        help="change the body first, e.g. options.model=large-v3; VALUE is JSON, or else a text",
    )
    redrive.add_argument(
        "--unset", action="append", default=[], dest="removals", metavar="PATH", help="remove a field of the body first"
    )
    redrive.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    redrive.add_argument("--queue-url", metavar="URL", help="default: TRANSCRIPTD_QUEUE_URL")
    purge = actions.add_parser("purge", help="delete messages for good")
    _add_selection(purge)
    purge.add_argument("--yes", action="store_true", help="do not ask")
    for action, name in ((listing, "list"), (show, "show"), (redrive, "redrive"), (purge, "purge")):
        action.add_argument("--dlq-url", metavar="URL", help="default: TRANSCRIPTD_DLQ_URL")
        action.add_argument(
            "--limit", type=_count, default=1000, metavar="N", help="look at no more messages than this; default: 1000"
        )
        action.set_defaults(call=_dlq(name))


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="message ids, or job ids with all their messages")
    parser.add_argument("--reason", metavar="CODE", help="those with this code")
    parser.add_argument("--older-than", type=duration, metavar="AGE", help="those sent so long ago: 90s, 30m, 12h, 7d")
    parser.add_argument("--all", action="store_true", help="all of them")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="s3://BUCKET/KEY | FILE", help="the recording; a file is uploaded first")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        dest="options",
        metavar="KEY=VALUE",
        help="an option of the job, e.g. model=large-v3; VALUE is JSON, or else a text",
    )
    parser.add_argument("--job-id", metavar="ID", help="default: one made from the name of the recording")
    parser.add_argument("--bucket", help="where a file goes; default: the first of TRANSCRIPTD_INPUT_BUCKETS")
    parser.add_argument("--queue-url", metavar="URL", help="default: TRANSCRIPTD_QUEUE_URL")
    parser.add_argument("--watch", action="store_true", help="follow the job, then print its transcript")
    _add_watching(parser)
    parser.set_defaults(call=_submit)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="JOB_ID")
    parser.add_argument("--message-id", metavar="ID", help="what became of earlier messages of the job does not count")
    _add_watching(parser)
    parser.set_defaults(call=_watch)


def _add_watching(parser: argparse.ArgumentParser) -> None:
    result = parser.add_mutually_exclusive_group()
    result.add_argument("--format", metavar="NAME", help="print this output; default: md")
    result.add_argument("--save", metavar="DIR", help="save all outputs to this directory, new or empty, instead")
    parser.add_argument("--timeout", type=duration, metavar="TIME", help="give up watching after this time, e.g. 30m")
    parser.add_argument("--output-bucket", metavar="NAME", help="default: TRANSCRIPTD_OUTPUT_BUCKET")
    parser.add_argument("--output-prefix", metavar="PREFIX", help="default: TRANSCRIPTD_OUTPUT_PREFIX, or transcripts/")


def duration(text: str) -> float:
    """Seconds, from `90s`, `30m`, `12h`, `7d` or `2w`; a number alone is in seconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it like 90s, 30m, 12h or 7d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate; give messages per second, up to 1000")
    return number


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999999")
    return int(text)


def _dlq(action: str) -> Call:
    def call(arguments: argparse.Namespace) -> int:
        from daemon.tools import dlq
        from daemon.tools.command import run

        actions = {"list": dlq.list_letters, "show": dlq.show, "redrive": dlq.redrive, "purge": dlq.purge}
        return run(f"dlq {action}", lambda: actions[action](arguments))

    return call


def _check(arguments: argparse.Namespace) -> int:
    from daemon.tools.check.command import check
    from daemon.tools.command import run

    return run("check", lambda: check(arguments))


def _submit(arguments: argparse.Namespace) -> int:
    from daemon.tools.command import run
    from daemon.tools.submit import submit

    return run("submit", lambda: submit(arguments))


def _watch(arguments: argparse.Namespace) -> int:
    from daemon.tools.command import run
    from daemon.tools.watch import watch

    return run("watch", lambda: watch(arguments))
