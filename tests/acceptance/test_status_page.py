"""The status page of the real daemon: jobs and outcomes, access, redaction, and its behaviour during a drain."""

import http.client
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from bench.waiting import PATIENCE_SECONDS
from bench.world import SECRET, World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.browser import Page, chromium, open_page
from tests.support.programs import require_program

HOSTILE = '<img src=x onerror="window.pwned=1">'
SPOKEN = "plantedspeech"
PATHS = ("/", "/status.json", "/page.json")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as world:
        world.upload("call.wav", sample_call())
        world.settings |= {"HF_TOKEN": "hf_planted", "AWS_SECRET_ACCESS_KEY": "planted-key"}
        yield world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[DaemonProcess]:
    """A daemon with a completed job, a hostile message in the dead-letter queue, and a job that stays half-done."""
    with world.daemon(max_jobs_in_flight="1", drain_timeout_seconds="0") as daemon:
        world.publish("job-done", "call.wav", options={"initial_prompt": f"say {SPOKEN}"})
        until(lambda: len(status(daemon)["outcomes"]) == 1)
        world.send(json.dumps({"job_id": HOSTILE, "input": {"bucket": "media", "key": "call.wav"}}))
        until(lambda: len(status(daemon)["outcomes"]) == 2)
        world.publish("job-held", "call.wav", options={"initial_prompt": "sleep 3600"})
        until(lambda: [job["fraction"] for job in status(daemon)["jobs"]] == [0.5])
        yield daemon


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if condition():
                return
        except OSError:  # not yet listening
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def status(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.get("/status.json"))
    return found


def ask(daemon: DaemonProcess, path: str, host: str | None = None) -> http.client.HTTPResponse:
    """Send a request and return the response with its body unread."""
    port = next(daemon.log_entries("listening"))["port"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def parts(daemon: DaemonProcess) -> dict[str, Any]:
    """Return the document that an open page polls."""
    found: dict[str, Any] = json.loads(daemon.get("/page.json"))
    return found


def test_page_shows_daemon_runner_jobs_and_outcomes(daemon: DaemonProcess) -> None:
    found = status(daemon)
    assert found["daemon"]["phase"] == "running"
    (runner,) = found["runners"]
    assert (runner["device"], runner["state"], runner["device_name"]) == ("cpu", "busy", "scripted")
    assert runner["restarts"] == {}
    assert runner["memory_bytes"]["host"] > 0
    receiving = found["receiving"]
    assert (receiving["paused"], receiving["last_error"]) == (None, None)
    assert receiving["depths"]["jobs"].keys() == {"visible", "in_flight"}
    assert found["daemon"]["since"] <= receiving["last_successful_poll"] <= found["at"]
    (job,) = found["jobs"]
    assert (job["job_id"], job["stage"], job["fraction"], job["attempt"]) == ("job-held", "asr", 0.5, 1)
    assert job["audio_seconds"] == 30.0
    assert 0 < job["lease_margin_seconds"] <= 120
    failed, done = found["outcomes"]
    assert (done["job_id"], done["outcome"], done["reason"], done["settled"]) == (
        "job-done",
        "published",
        "published",
        True,
    )
    assert (done["audio_seconds"], done["message"]) == (30.0, None)
    assert (failed["job_id"], failed["outcome"], failed["reason"]) == (None, "dead_lettered", "invalid_job_id")
    changed = {each["name"]: each["value"] for each in found["settings"] if each["changed"]}
    assert changed["TRANSCRIPTD_MODEL"] == "base"
    assert "TRANSCRIPTD_HEARTBEAT_SECONDS" not in changed


def test_page_needs_no_script_and_allows_no_foreign_one(daemon: DaemonProcess) -> None:
    answer = ask(daemon, "/")
    page = answer.read().decode()
    for text in (
        "job-held",
        "job-done",
        "recognizing speech",
        "invalid_job_id",
        "&lt;img src=x",
        "TRANSCRIPTD_DLQ_URL",
    ):
        assert text in page
    assert HOSTILE not in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert " style=" not in page


def test_no_secret_and_no_transcript_is_shown(daemon: DaemonProcess, world: World) -> None:
    everything = [ask(daemon, path).read().decode() for path in PATHS]
    planted = (SECRET, SECRET.removeprefix("whsec_"), "hf_planted", "planted-key", SPOKEN)
    for text in everything:
        assert "job-done" in text
        for secret in (*planted, "WEBHOOK_SECRET", "HF_TOKEN", "AWS_"):
            assert secret not in text
    assert SPOKEN in world.outputs("job-done")["transcript.md"].decode()


def test_foreign_host_names_are_rejected(daemon: DaemonProcess) -> None:
    for path in (*PATHS, "/nothing", "/metrics", "/healthz", "/readyz"):
        assert ask(daemon, path, "evil.example").status == 403
    for host in ("localhost:1234", "[::1]", "10.1.2.3"):
        assert ask(daemon, "/", host).status == 200


def test_page_is_read_only(daemon: DaemonProcess) -> None:
    for path in PATHS:
        answer = ask(daemon, path)
        connection = http.client.HTTPConnection("127.0.0.1", next(daemon.log_entries("listening"))["port"])
        connection.request("POST", path, body=b"x")
        assert connection.getresponse().status == 405
        answer.close()


def test_open_page_gets_its_parts_as_trees_of_elements(daemon: DaemonProcess) -> None:
    found = parts(daemon)
    assert found["title"].startswith("working")
    assert set(found["parts"]) == {"now", "state", "jobs", "outcomes", "settings"}
    assert all(tree[0] == "section" and tree[1]["id"] == name for name, tree in found["parts"].items())
    assert "<img src=x" in json.dumps(found["parts"]["outcomes"])  # as text: the page parses no markup


def test_open_page_shows_the_drain_and_does_not_delay_it(daemon: DaemonProcess, world: World) -> None:
    """The first daemon's only slot is taken, so the second one gets the job."""
    with world.daemon("second", drain_timeout_seconds="300") as second:
        assert second.wait_until_ready(PATIENCE_SECONDS), second.log_tail()
        world.publish("job-drained", "call.wav", options={"initial_prompt": "sleep 3600"})
        until(lambda: [job["stage"] for job in status(second)["jobs"]] == ["asr"])
        answer = ask(second, "/page.json")
        answer.read()  # its connection stays open, as a browser's does
        second.process.send_signal(signal.SIGTERM)
        until(lambda: parts(second)["title"].startswith("draining"))
        assert "job-drained" in json.dumps(parts(second))
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(PATIENCE_SECONDS) == 1
    assert status(daemon)["daemon"]["phase"] == "running"


@pytest_asyncio.fixture
async def page() -> AsyncIterator[Page]:
    async with chromium(require_program("chromium")) as address, open_page(address) as page:
        yield page


async def test_in_a_browser_hostile_text_stays_text_and_times_advance(page: Page, daemon: DaemonProcess) -> None:
    port = next(daemon.log_entries("listening"))["port"]
    await page.goto(f"http://localhost:{port}/")
    await page.until("document.getElementById('live').textContent === 'live'")
    elapsed = "document.querySelector('article dd').textContent"
    before = await page.run(elapsed)
    await page.until(f"{elapsed} !== {json.dumps(before)}")
    assert "<img src=x onerror" in await page.run("document.getElementById('outcomes').textContent")
    assert await page.run("document.images.length") == 0
    assert await page.run("typeof window.pwned") == "undefined"
    assert page.complaints == []
