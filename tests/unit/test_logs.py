"""What a line is made of: nothing undeclared, nothing quoted; and how outages become lines."""

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
from daemon.autoscaling import AutoScalingGroup
from daemon.config import Settings
from daemon.errors import NoAudio, QueueUnavailable, StorageUnavailable
from daemon.intake import Load
from daemon.log_schema import FIELDS
from daemon.logs import _Formatter, bind, log_context, log_fields, on_loop_exception
from daemon.metrics import Metrics
from daemon.outage import MAX_TOLD, TOLD_PERIOD_SECONDS, Outage
from daemon.processor import Processor
from daemon.spans import Tracer
from daemon.status import Record
from tests.fakes import FakeQueue, received

PACKAGE = Path(daemon.__file__).parent
TOOLS = ("tools", "embedded", "models")  # they talk to people
WORDS = "planted"  # raised by name: a traceback shows the source
METHODS = ("debug", "info", "warning", "error", "exception", "critical", "log")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What is logged, formatted."""
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
    used |= {"trace_id"}  # reserved
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
    # Put together beside the call.
    used |= {"webhook_event", "webhook_attempt", "status", "due", "error", "untold", "down_seconds", "failures"}
    assert used == FIELDS.keys()


def test_events_are_words_that_do_not_change() -> None:
    """Nothing is filled in: what varies is in the fields, and a query by event finds all of its lines."""
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


def test_loggers_are_ours_by_name() -> None:
    for path in sources():
        for name in re.findall(r"^log = logging.getLogger\((.*)\)", path.read_text(), re.MULTILINE):
            assert name.startswith('"transcriptd'), f"{path}: the level of {name} is that of libraries"


def test_events_that_documents_name_exist() -> None:
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


# --- what is not told -------------------------------------------------------------------------------------------------


def test_an_exception_is_told_by_kind_and_place(lines: Callable[[], list[dict[str, Any]]]) -> None:
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


def test_a_group_and_a_circle_of_exceptions_are_told(lines: Callable[[], list[dict[str, Any]]]) -> None:
    one, other = ValueError("planted"), OSError(28, "No space left on device", "/planted")
    one.__cause__, other.__cause__ = other, one
    logging.getLogger("transcriptd.test").error("failed", exc_info=ExceptionGroup("planted", [one, other]))
    (line,) = lines()
    assert "planted" not in line["traceback"]
    assert "OSError: No space left on device" in line["traceback"]


def test_a_library_is_quoted_by_its_pattern(lines: Callable[[], list[dict[str, Any]]]) -> None:
    library = logging.getLogger("a.library")
    library.warning("got %s", "planted", extra={"body": "planted"})
    library.warning("planted")  # filled in before we see it
    with_pattern, without = lines()
    assert (with_pattern["event"], with_pattern["detail"].rpartition(": ")[2]) == ("library message", "got %s")
    assert re.fullmatch(r".*test_logs\.py:\d+", without["detail"])
    assert with_pattern.keys() | without.keys() <= FIELDS.keys()


def test_a_secret_that_came_this_far_is_blanked(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("transcriptd.test").warning("failed", extra={"error": "said a-secret-of-ours aloud"})
    assert lines()[0]["error"] == "said *** aloud"


def test_a_long_text_keeps_its_ends(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logging.getLogger("transcriptd.test").warning("failed", extra={"detail": "begin" + "x" * 100_000 + "end"})
    detail = lines()[0]["detail"]
    assert len(detail) < 5_000
    assert (detail[:5], detail[-3:]) == ("begin", "end")


async def test_what_asyncio_finds_is_told_without_the_words(lines: Callable[[], list[dict[str, Any]]]) -> None:
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


def test_what_nobody_catches_is_a_line_too() -> None:
    code = (
        "from daemon.logs import configure, take_stdout; import os, sys, threading\n"
        "configure('info', 'runner', stream=take_stdout())\n"
        "print('planted'); print('planted', file=sys.stderr); os.write(1, b'native'); \n"
        "def fail(): raise ValueError('planted')\n"
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


# --- the job on every line --------------------------------------------------------------------------------------------


async def test_what_is_learnt_later_is_on_the_lines_of_tasks_that_run_already() -> None:
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


async def test_a_delivery_that_a_fault_of_ours_ended_has_its_summary(
    make_settings: Callable[..., Settings], lines: Callable[[], list[dict[str, Any]]]
) -> None:
    class Broken(FakeQueue):
        async def release(self, message: Any) -> None:
            raise ValueError(WORDS)

    nobody: Any = None  # a message that is released at once meets nothing else
    processor = Processor(
        make_settings(),
        queue=Broken(),  # type: ignore[arg-type]  # what Processor calls of a Queue
        results=nobody,
        transcriber=nobody,
        webhooks=nobody,
        tracer=Tracer(),
        metrics=Metrics(),
        record=Record(),
    )
    leave = asyncio.Event()
    leave.set()
    await processor.process(received('{"job_id": "job-1"}'), leave, Load())
    fault, summary = lines()
    assert (fault["event"], fault["message_id"]) == ("delivery not settled", "m-1")
    assert (summary["event"], summary["level"], summary["job_id"]) == ("job finished", "ERROR", "job-1")
    assert (summary["outcome"], summary["reason"], summary["settled"]) == ("unsettled", "internal_error", False)
    assert summary["error"] == "ValueError"


# --- outages ----------------------------------------------------------------------------------------------------------


def an_outage() -> Outage:
    return Outage(logging.getLogger("transcriptd.test"), "it is down", "it is back", level=logging.ERROR, queue="jobs")


def test_an_outage_is_two_lines_however_many_tries(lines: Callable[[], list[dict[str, Any]]]) -> None:
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
    assert "job_id" not in down | up, "a job only noticed it"
    assert "traceback" not in down


def test_what_comes_and_goes_is_not_told_for_ever(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("daemon.outage.time.monotonic", lambda: now)
    it = an_outage()
    for _ in range(MAX_TOLD + 5):
        it.failed(QueueUnavailable("SQS failed"))
        it.worked()
    assert len(lines()) == 2 * MAX_TOLD
    it.failed(QueueUnavailable("SQS failed"))
    now += TOLD_PERIOD_SECONDS + 1
    it.failed(QueueUnavailable("SQS failed"))
    it.worked()
    *_, down, up = lines()
    assert down["untold"] == 5, "what lasts is told at last, and what was left out"
    assert (up["failures"], up["down_seconds"]) == (2, TOLD_PERIOD_SECONDS + 1)


def test_a_fault_of_ours_is_told_with_its_place(lines: Callable[[], list[dict[str, Any]]]) -> None:
    it = an_outage()
    try:
        raise KeyError(WORDS)
    except KeyError as error:
        it.failed(error, unexpected=True)
    (line,) = lines()
    assert line["error"] == "KeyError"
    assert "test_logs.py" in line["traceback"]
    assert "planted" not in json.dumps(line)


async def test_a_group_that_cannot_be_told_is_said_once(
    lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat a minute, each tried for a while: the night has two lines of it."""
    monkeypatch.setattr("daemon.autoscaling.RETRY_SECONDS", 0.0)

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
