"""Log lines: declared fields only, no quoted content, and one line per edge of an outage."""

import ast
import asyncio
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

import daemon
from daemon.aws.autoscaling import AutoScalingGroup
from daemon.config import Settings
from daemon.errors import NoAudio, QueueUnavailable, StorageUnavailable
from daemon.jobs.brake import Brake
from daemon.jobs.cancellation import Cancellation
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.processor import Processor
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.jobs.tracker import JobTracker
from daemon.telemetry.log_schema import FIELDS
from daemon.telemetry.logs import _Formatter, bind, log_context, log_fields, on_loop_exception
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import LOGGED_PERIOD_SECONDS, MAX_LOGGED, Outage
from daemon.telemetry.spans import Tracer
from tests.support.aws.fakes import FakeQueue, received
from tests.support.time.virtual import in_virtual_time, virtual_time

PACKAGE = Path(daemon.__file__).parent
TOOLS = ("tools", "embedded", "models")  # their output is for users
WORDS = "planted"  # raised indirectly, because a traceback shows source lines
METHODS = ("debug", "info", "warning", "error", "exception", "critical", "log")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The formatted log lines."""
    stream, root = StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter("poller", ["a-secret-of-ours"]))
    root.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)


def sources() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in TOOLS]


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_every_field_is_declared_and_every_declared_field_is_used() -> None:
    used = {"timestamp", "level", "process", "logger", "event", "traceback"}
    used |= {"trace_id", "tenant"}  # reserved, absent if there is none
    for path in sources():
        for call in calls(path):
            name = ast.unparse(call.func)
            for keyword in call.keywords:
                if keyword.arg == "extra":
                    keys = [node for node in ast.walk(keyword.value) if isinstance(node, ast.Dict)]
                    used |= {
                        ast.literal_eval(key) for each in keys for key in each.keys if isinstance(key, ast.Constant)
                    }
                elif keyword.arg and name in ("log_context", "bind"):
                    used.add(keyword.arg)
                elif keyword.arg not in (None, "level") and name == "Outage":
                    used.add(str(keyword.arg))
    # Fields that are built outside of the call.
    used |= {"sink", "event_type", "event_attempt", "status", "due", "error", "suppressed", "down_seconds", "failures"}
    assert used == FIELDS.keys()


def test_events_are_constant_strings() -> None:
    """Events contain no interpolated values: variable parts are fields, so that a query by event finds all lines."""
    for path in sources():
        for call in calls(path):
            function = call.func
            if (
                isinstance(function, ast.Attribute)
                and function.attr in METHODS
                and ast.unparse(function.value) == "log"
            ):
                event = call.args[1 if function.attr == "log" else 0]
                assert not isinstance(event, ast.JoinedStr | ast.BinOp), f"{path.name}:{call.lineno}"
                assert len(call.args) == (2 if function.attr == "log" else 1), f"{path.name}:{call.lineno}"


def test_loggers_use_our_names() -> None:
    for path in sources():
        for name in re.findall(r"^log = logging.getLogger\((.*)\)", path.read_text(), re.MULTILINE):
            assert name.startswith('"transcriptd'), f"{path}: the level of {name} is that of libraries"


def test_documented_events_exist() -> None:
    said = {
        node.value
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
    }
    root = PACKAGE.parent
    for page in [root / "docs" / "logs.md", *root.glob("docs/runbooks/*.md"), root / "docs" / "troubleshooting.md"]:
        named = re.findall(r'event\s*={1,2}\s*\\?"([^"\\]+)', page.read_text())
        if page.name == "logs.md":
            table = page.read_text().partition("## Lines worth knowing")[2].partition("\n## ")[0]
            named += [
                name for row in re.findall(r"(?m)^\| (`[^|]+) \|", table) for name in re.findall(r"`([^`]+)`", row)
            ]
            assert len(named) > 20
        for name in named:
            assert name in said, f"{page.name} names the event {name}"


# --- redaction --------------------------------------------------------------------------------------------------------


def test_exception_is_logged_by_type_and_location(lines: Callable[[], list[dict[str, Any]]]) -> None:
    try:
        try:
            raise KeyError(WORDS)
        except KeyError as error:
            raise NoAudio("the file has no audio stream") from error
    except NoAudio:
        logging.getLogger("transcriptd.test").exception("failed")
    (line,) = lines()
    assert "planted" not in line["traceback"]
    assert re.search(r"(?s)test_logs.py.*builtins.KeyError: KeyError\nwhich led to:\n", line["traceback"])
    assert line["traceback"].endswith("daemon.errors.NoAudio: the file has no audio stream\n")


def test_exception_groups_and_cycles_are_logged(lines: Callable[[], list[dict[str, Any]]]) -> None:
    one, other = ValueError("planted"), OSError(28, "No space left on device", "/planted")
    one.__cause__, other.__cause__ = other, one
    logging.getLogger("transcriptd.test").error("failed", exc_info=ExceptionGroup("planted", [one, other]))
    (line,) = lines()
    assert "planted" not in line["traceback"]
    assert "OSError: No space left on device" in line["traceback"]


def test_library_messages_are_logged_by_pattern(lines: Callable[[], list[dict[str, Any]]]) -> None:
    library = logging.getLogger("a.library")
    library.warning("got %s", "planted", extra={"body": "planted"})
    library.warning("planted")  # formatted before the handler sees it
    with_pattern, without = lines()
    assert (with_pattern["event"], with_pattern["detail"].rpartition(": ")[2]) == ("library message", "got %s")
    assert re.fullmatch(r".*test_logs\.py:\d+", without["detail"])
    assert with_pattern.keys() | without.keys() <= FIELDS.keys()


def test_secrets_are_redacted_as_a_last_resort(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("transcriptd.test").warning("failed", extra={"error": "said a-secret-of-ours aloud"})
    assert lines()[0]["error"] == "said *** aloud"


def test_long_text_keeps_both_ends(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("transcriptd.test").warning("failed", extra={"detail": "begin" + "x" * 100_000 + "end"})
    detail = lines()[0]["detail"]
    assert len(detail) < 5_000
    assert (detail[:5], detail[-3:]) == ("begin", "end")


async def test_asyncio_errors_are_logged_without_content(lines: Callable[[], list[dict[str, Any]]]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_exception)

    async def fail() -> None:
        raise ValueError(WORDS)

    task = loop.create_task(fail(), name="forgotten")
    await asyncio.wait((task,))
    del task
    (line,) = lines()
    assert (line["event"], line["task"], line["detail"]) == (
        "unhandled exception",
        "forgotten",
        "Task exception was never retrieved",
    )
    assert "planted" not in json.dumps(line)


def test_unhandled_exception_is_one_line() -> None:
    code = (
        "from daemon.telemetry.logs import configure, take_stdout; import os, sys, threading\n"
        "configure('info', 'runner', stream=take_stdout())\n"
        "word = 'plan' + 'ted'\n"  # split: a traceback shows source lines, with -c since 3.13
        "print(word); print(word, file=sys.stderr); os.write(1, b'native'); \n"
        "def fail(): raise ValueError(word)\n"
        "t = threading.Thread(target=fail, name='a thread'); t.start(); t.join()\n"
        "fail()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    in_thread, in_main = (json.loads(line) for line in done.stdout.splitlines())
    assert (in_thread["event"], in_thread["level"], in_thread["task"]) == ("unhandled exception", "ERROR", "a thread")
    assert (in_main["event"], in_main["level"]) == ("unhandled exception", "CRITICAL")
    assert "planted" not in done.stdout + done.stderr
    assert done.stderr == "native"


# --- job context ------------------------------------------------------------------------------------------------------


async def test_context_bound_later_appears_in_running_tasks() -> None:
    async def look() -> dict[str, Any]:
        await learnt.wait()
        return log_fields()

    learnt = asyncio.Event()
    with log_context(message_id="m-1"):
        task = asyncio.create_task(look())
        await asyncio.sleep(0)
        bind(job_id="job-1")
        learnt.set()
        assert await task == {"message_id": "m-1", "job_id": "job-1"}
    assert log_fields() == {}
    with pytest.raises(LookupError):
        bind(job_id="job-1")


async def test_delivery_ended_by_an_internal_error_has_its_summary(
    make_settings: Callable[..., Settings], lines: Callable[[], list[dict[str, Any]]]
) -> None:
    class Broken(FakeQueue):
        async def release(self, message: Any) -> None:
            raise ValueError(WORDS)

    nobody: Any = None  # a message that is released at once uses none of them
    settings = make_settings()
    status = StatusWriter(settings, nobody, Metrics(), JobTracker())
    processor = Processor(
        settings,
        queues=Broken(),  # type: ignore[arg-type]  # what Processor calls of Queues
        results=nobody,
        transcriber=nobody,
        publisher=nobody,
        late_outputs=nobody,
        status=status,
        cancellation=Cancellation(settings, nobody, status),
        events=nobody,
        tracer=Tracer(),
        metrics=Metrics(),
        tracker=JobTracker(),
        brake=Brake(3, {}, Metrics()),
    )
    interrupt = asyncio.Event()
    interrupt.set()
    await processor.process(received('{"job_id": "job-1"}'), interrupt, WorkEstimate())
    fault, summary = lines()
    assert (fault["event"], fault["message_id"]) == ("delivery not settled", "m-1")
    assert (summary["event"], summary["level"], summary["job_id"]) == ("job finished", "ERROR", "job-1")
    assert (summary["outcome"], summary["reason"], summary["settled"]) == ("unsettled", "internal_error", False)
    assert summary["error"] == "ValueError"


# --- outages ----------------------------------------------------------------------------------------------------------


def an_outage() -> Outage:
    return Outage(logging.getLogger("transcriptd.test"), "it is down", "it is back", level=logging.ERROR, queue="jobs")


def test_outage_is_two_lines_however_many_attempts(lines: Callable[[], list[dict[str, Any]]]) -> None:
    it = an_outage()
    it.worked()
    with log_context(job_id="job-1"):
        for _ in range(5):
            it.failed(StorageUnavailable("S3 failed"))
        it.worked()
    it.worked()
    down, up = lines()
    assert (down["event"], down["level"], down["error"], down["queue"]) == ("it is down", "ERROR", "S3 failed", "jobs")
    assert (up["event"], up["level"], up["failures"], up["queue"]) == ("it is back", "ERROR", 5, "jobs")
    assert "job_id" not in down | up, "only a job noticed it"
    assert "traceback" not in down


def test_flapping_outage_is_throttled(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("daemon.telemetry.outage.time.monotonic", lambda: now)
    it = an_outage()
    for _ in range(MAX_LOGGED + 5):
        it.failed(QueueUnavailable("SQS failed"))
        it.worked()
    assert len(lines()) == 2 * MAX_LOGGED
    it.failed(QueueUnavailable("SQS failed"))
    now += LOGGED_PERIOD_SECONDS + 1
    it.failed(QueueUnavailable("SQS failed"))
    it.worked()
    *_, down, up = lines()
    assert down["suppressed"] == 5, "a lasting outage is logged in the end, with the number of suppressed lines"
    assert (up["failures"], up["down_seconds"]) == (2, LOGGED_PERIOD_SECONDS + 1)


def test_internal_error_is_logged_with_its_location(lines: Callable[[], list[dict[str, Any]]]) -> None:
    it = an_outage()
    try:
        raise KeyError(WORDS)
    except KeyError as error:
        it.failed(error, unexpected=True)
    (line,) = lines()
    assert line["error"] == "KeyError"
    assert "test_logs.py" in line["traceback"]
    assert "planted" not in json.dumps(line)


@in_virtual_time
async def test_unreachable_group_is_logged_once(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is retried for a while, and again later; all of that produces two lines."""
    virtual_time().patch(monkeypatch)  # tenacity has no clock parameter

    class Client:
        down = True

        async def set_instance_health(self, **_: Any) -> None:
            if self.down:
                raise EndpointConnectionError(endpoint_url="https://autoscaling.example.com")

    client: Any = Client()
    group = AutoScalingGroup(client, "fleet", "i-1")
    for _ in range(3):
        assert not await group.report_unhealthy()
    client.down = False
    assert await group.report_unhealthy()
    said = [line["event"] for line in lines() if line["level"] == "ERROR"]
    assert said == ["Auto Scaling unavailable", "Auto Scaling available again"]
