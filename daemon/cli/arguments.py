"""Command-line arguments. Each command imports its own module when it runs, so that `transcriptd --help` is fast."""

import argparse
import re
from collections.abc import Callable
from typing import Any

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Subcommand = Callable[[argparse.Namespace], int]


def add_tools(commands: Any) -> None:
    """Declare `check`, `dlq`, `submit`, `watch`, `jobs`, `cancel`, `render` and `webhook`."""
    _add_check(
        commands.add_parser("check", help="check whether the daemon can run here, and report how to fix problems")
    )
    _add_dlq(commands.add_parser("dlq", help="inspect the dead-letter queue; redrive or delete its messages"))
    _add_submit(commands.add_parser("submit", help="publish a job for a local file or an S3 object"))
    _add_watch(commands.add_parser("watch", help="follow a job to its end and fetch its transcript"))
    _add_jobs(commands.add_parser("jobs", help="list the jobs whose results are in the bucket, newest first"))
    _add_cancel(commands.add_parser("cancel", help="cancel a job that waits or runs"))
    _add_render(commands.add_parser("render", help="write a finished job's transcript in other formats"))
    _add_webhook(commands.add_parser("webhook", help="send a signed test event, or the events of ended jobs again"))


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these checks; docs/cli.md lists them")
    parser.add_argument("--skip", nargs="+", metavar="NAME", help="run all checks except these")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(call=_check)


def _add_dlq(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the messages, one per line")
    listing.add_argument("--reason", metavar="CODE", help="only messages with this error code")
    listing.add_argument("--job", metavar="ID", help="only messages of this job")
    listing.add_argument("--tenant", metavar="NAME", help="only messages with this MessageGroupId")
    listing.add_argument("--json", action="store_true", help="print one JSON object per line")
    show = actions.add_parser("show", help="show all details of a message or of a job's messages")
    show.add_argument("id", metavar="ID", help="message ID, at least its first 8 characters, or job ID")
    redrive = actions.add_parser("redrive", help="send messages back to the job queue and delete them from this one")
    _add_selection(redrive)
    redrive.add_argument("--rate", type=_positive, default=5.0, metavar="N", help="messages per second; default: 5")
    redrive.add_argument(
        "--set",
        action="append",
        default=[],
        dest="edits",
        metavar="PATH=VALUE",
        help="edit the body first, e.g. options.model=large-v3; VALUE is JSON, or plain text if it does not parse",
    )
    redrive.add_argument(
        "--unset",
        action="append",
        default=[],
        dest="removals",
        metavar="PATH",
        help="remove a field from the body first",
    )
    redrive.add_argument("--dry-run", action="store_true", help="print what would be sent, without sending it")
    redrive.add_argument("--queue-url", metavar="URL", help="default: TRANSCRIPTD_QUEUE_URL")
    purge = actions.add_parser("purge", help="delete messages permanently")
    _add_selection(purge)
    purge.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    for action, name in ((listing, "list"), (show, "show"), (redrive, "redrive"), (purge, "purge")):
        action.add_argument("--dlq-url", metavar="URL", help="default: TRANSCRIPTD_DLQ_URL")
        _add_queue(action)
        action.add_argument(
            "--limit", type=_count, default=1000, metavar="N", help="maximum number of messages to read; default: 1000"
        )
        action.set_defaults(call=_dlq(name))


def add_option(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Declare `--option`."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        dest="options",
        metavar="KEY=VALUE",
        help=f"{meaning}; VALUE is JSON, or plain text if it does not parse",
    )


def _add_queue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queue", metavar="NAME", help="the queue, if the setting has several")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="message IDs, or job IDs to select all messages of a job")
    parser.add_argument("--reason", metavar="CODE", help="messages with this error code")
    parser.add_argument("--tenant", metavar="NAME", help="messages with this MessageGroupId")
    parser.add_argument(
        "--older-than", type=duration, metavar="AGE", help="messages older than this: 90s, 30m, 12h, 7d"
    )
    parser.add_argument("--all", action="store_true", help="all messages")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="s3://BUCKET/KEY | FILE", help="the recording; a local file is uploaded first"
    )
    add_option(parser, "job option, e.g. model=large-v3")
    parser.add_argument("--profile", metavar="NAME", help="a profile of the deployment, for options that are not given")
    parser.add_argument(
        "--start", type=duration, metavar="TIME", help="transcribe from this time of the recording, e.g. 90s or 1.5h"
    )
    parser.add_argument("--end", type=duration, metavar="TIME", help="transcribe up to this time of the recording")
    parser.add_argument(
        "--words-of",
        metavar="JOB_ID",
        help="keep the words of this finished job of the recording, and only find speakers or redact again",
    )
    parser.add_argument("--job-id", metavar="ID", help="default: generated from the name of the recording")
    parser.add_argument(
        "--tenant", metavar="NAME", help="whose job it is: the message's MessageGroupId, for fair queues"
    )
    parser.add_argument("--bucket", help="bucket for the upload; default: the first of TRANSCRIPTD_INPUT_BUCKETS")
    parser.add_argument("--queue-url", metavar="URL", help="default: TRANSCRIPTD_QUEUE_URL")
    _add_queue(parser)
    parser.add_argument("--watch", action="store_true", help="follow the job, then print its transcript")
    _add_watching(parser)
    parser.set_defaults(call=_submit)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="JOB_ID")
    parser.add_argument("--message-id", metavar="ID", help="ignore other messages of the job")
    _add_watching(parser)
    parser.set_defaults(call=_watch)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        type=duration,
        default=86_400.0,
        metavar="AGE",
        help="changed within this time, e.g. 12h; default: 1d",
    )
    parser.add_argument("--failed", action="store_true", help="only failed jobs")
    parser.add_argument("--limit", type=_count, default=100, metavar="N", help="maximum number of jobs; default: 100")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    _add_place(parser)
    parser.set_defaults(call=_jobs)


def _add_cancel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_id", metavar="JOB_ID")
    _add_place(parser)
    parser.set_defaults(call=_cancel)


def _add_render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="JOB_ID | FILE",
        help="a finished job, or a transcript.json on this machine, which needs no AWS",
    )
    parser.add_argument(
        "--format",
        action="append",
        required=True,
        dest="formats",
        metavar="NAME",
        help="output format; repeat it for several",
    )
    add_option(parser, "rendering option, e.g. subtitles.max_lines=1")
    parser.add_argument(
        "--save",
        metavar="DIR",
        help="write the files to this new or empty directory; otherwise those of a job are added to its result, and one of a "
        "FILE is printed",
    )
    _add_place(parser)
    parser.set_defaults(call=_render)


def _add_webhook(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    send = actions.add_parser("send", help="send a signed test event (job.test)")
    resend = actions.add_parser("resend", help="send the final events of ended jobs again, with their first IDs")
    resend.add_argument("job_ids", nargs="*", metavar="JOB_ID")
    resend.add_argument(
        "--since", type=duration, metavar="AGE", help="all jobs that changed within this time, e.g. 12h"
    )
    resend.add_argument(
        "--undelivered", action="store_true", help="only events that the daemon has not recorded as delivered"
    )
    _add_place(resend)
    for action, name in ((send, "send"), (resend, "resend")):
        action.add_argument("--url", metavar="URL", help="default: WEBHOOK_URL")
        action.set_defaults(call=_webhook(name))


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-bucket", metavar="NAME", help="default: TRANSCRIPTD_OUTPUT_BUCKET")
    parser.add_argument("--output-prefix", metavar="PREFIX", help="default: TRANSCRIPTD_OUTPUT_PREFIX, or transcripts/")


def _add_watching(parser: argparse.ArgumentParser) -> None:
    result = parser.add_mutually_exclusive_group()
    result.add_argument("--format", metavar="NAME", help="output format to print; default: md")
    result.add_argument("--save", metavar="DIR", help="save all outputs to this new or empty directory instead")
    parser.add_argument("--timeout", type=duration, metavar="TIME", help="stop watching after this time, e.g. 30m")
    _add_place(parser)


def duration(text: str) -> float:
    """Parse `90s`, `30m`, `12h`, `7d` or `2w` into seconds; a number without a unit is in seconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write it like 90s, 30m, 12h or 7d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate; use messages per second, above 0 and up to 1000")
    return number


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 999999")
    return int(text)


def _dlq(action: str) -> Subcommand:
    def call(arguments: argparse.Namespace) -> int:
        from daemon.cli import dlq
        from daemon.cli.command import run

        actions = {"list": dlq.list_letters, "show": dlq.show, "redrive": dlq.redrive, "purge": dlq.purge}
        return run(f"dlq {action}", lambda: actions[action](arguments))

    return call


def _check(arguments: argparse.Namespace) -> int:
    from daemon.cli.check.command import check
    from daemon.cli.command import run

    return run("check", lambda: check(arguments))


def _submit(arguments: argparse.Namespace) -> int:
    from daemon.cli.command import run
    from daemon.cli.submit import submit

    return run("submit", lambda: submit(arguments))


def _watch(arguments: argparse.Namespace) -> int:
    from daemon.cli.command import run
    from daemon.cli.watch import watch

    return run("watch", lambda: watch(arguments))


def _jobs(arguments: argparse.Namespace) -> int:
    from daemon.cli.command import run
    from daemon.cli.jobs import list_jobs

    return run("jobs", lambda: list_jobs(arguments))


def _cancel(arguments: argparse.Namespace) -> int:
    from daemon.cli.cancel import cancel
    from daemon.cli.command import run

    return run("cancel", lambda: cancel(arguments))


def _render(arguments: argparse.Namespace) -> int:
    from daemon.cli.command import run
    from daemon.cli.render import render

    return run("render", lambda: render(arguments))


def _webhook(action: str) -> Subcommand:
    def call(arguments: argparse.Namespace) -> int:
        from daemon.cli import webhook
        from daemon.cli.command import run

        chosen = webhook.send if action == "send" else webhook.resend
        return run(f"webhook {action}", lambda: chosen(arguments))

    return call
