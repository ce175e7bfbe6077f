"""The status page in a real browser, over a server with arbitrary status documents, above all hostile text."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from aiohttp import web

from daemon.jobs.tracker import ActiveJob, Outcome
from daemon.status.server import StatusServer
from daemon.status.status_collector import DaemonState, QueueDepth, Receiving, RunnerInfo, Setting, Status
from tests.support.browser import Page

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT = 1_790_000_000.0
HOSTILE = '<img src=x onerror="window.pwned=1"><script>pwned=1</script></title></style>&lt;b&gt;\'"`$title ${1}'

JOB = ActiveJob(
    job_id="call-8c2e41",
    message_id="m-1",
    queue="interactive",
    attempt=1,
    receive_count=2,
    stage="asr",
    fraction=0.8,
    overall_fraction=0.42,
    elapsed_seconds=187.0,
    audio_seconds=5400.0,
    remaining_seconds=372.0,
    lease_margin_seconds=81.0,
)
OUTCOME = Outcome(
    at=AT - 60,
    job_id="call-8c2e40",
    message_id="m-0",
    queue="batch",
    attempt=1,
    outcome="published",
    reason="published",
    message=None,
    settled=True,
    duration_seconds=93.0,
    audio_seconds=1834.0,
    warnings=("low_confidence_language",),
)
STATUS = Status(
    at=AT,
    daemon=DaemonState("running", AT - 9000, "0.1.0", "i-0abc", "gpu-7", 812),
    runners=[
        RunnerInfo("cuda:0", "busy", AT - 180, "NVIDIA A10G", "float16", {"asr": "large-v3"}, {"host": 6e9}, {"signal": 1}),
        RunnerInfo("cuda:1", "starting", AT - 9, None, None, None, {}, {}),
    ],
    receiving=Receiving(None, None, False, AT - 4, {"interactive": QueueDepth(17, 2), "batch": None}),
    jobs=[JOB],
    outcomes=[OUTCOME],
    settings=[Setting("TRANSCRIPTD_MODEL", "large-v3", False), Setting("TRANSCRIPTD_DIARIZE", "false", True)],
)  # fmt: skip


def hostile(text: str) -> Status:
    """Return a status in which every text is the given one."""
    daemon = DaemonState(text, AT, text, text, text, 1)
    return Status(
        at=AT,
        daemon=daemon,
        runners=[RunnerInfo(text, text, AT, text, text, {text: text}, {text: 1e9}, {text: 1})],
        receiving=Receiving(text, text, True, AT, {text: None, "batch": QueueDepth(1, 1)}),
        jobs=[replace(JOB, job_id=text, message_id=text, queue=text, stage=text)],
        outcomes=[replace(OUTCOME, job_id=text, outcome=text, reason=text, message=text, warnings=(text,))],
        settings=[Setting(text, text, True)],
    )


class Site:
    """The status server on loopback; it serves `status`."""

    def __init__(self) -> None:
        self.status = STATUS
        self.url = ""

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        StatusServer(lambda: self.status).attach(app)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        self.port = self.runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/"


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.start()
    yield site
    await site.runner.cleanup()


async def opened(page: Page, site: Site) -> Page:
    await page.goto(site.url)
    await page.until("document.getElementById('live').textContent === 'live'")
    return page


MAIN = "document.querySelector('main')"


async def test_hostile_text_is_text_as_served_and_as_patched(page: Page, site: Site) -> None:
    plain = hostile("x")
    site.status = plain
    await opened(page, site)
    elements = await page.run("document.querySelectorAll('*').length")
    site.status = hostile(HOSTILE)  # patched into the open page
    await page.until(f"{MAIN}.textContent.includes('onerror')")
    patched = await page.run(f"{MAIN}.innerHTML.trim()")
    assert await page.run("document.querySelectorAll('*').length") == elements
    assert HOSTILE in await page.run("document.title")
    await opened(page, site)  # served
    assert await page.run("document.querySelectorAll('*').length") == elements
    assert HOSTILE in await page.run("document.querySelector('article bdi').textContent")
    assert "".join((await page.run(f"{MAIN}.innerHTML")).split()) == "".join(patched.split())
    assert HOSTILE in await page.run("document.title")
    assert await page.run("typeof window.pwned") == "undefined"
    assert page.complaints == []
    assert set(page.requests) <= {site.url, site.url + "page.json", "data:,"}


async def test_page_lets_no_string_become_markup_or_script(page: Page, site: Site) -> None:
    await opened(page, site)
    for attempt in ("document.body.innerHTML = '<b>x</b>'", "document.body.insertAdjacentHTML('beforeend', '<b>')"):
        assert (
            await page.run(f"(() => {{try {{{attempt}; return 'done'}} catch (e) {{return e.name}}}})()") == "TypeError"
        )


async def test_open_page_updates_and_keeps_the_readers_state(page: Page, site: Site) -> None:
    await opened(page, site)
    assert await page.run("document.querySelector('progress').value") == pytest.approx(0.42)
    assert await page.run(f"{MAIN}.textContent.includes('17 waiting, 2 in flight')")
    await page.click("summary")
    await page.run("getSelection().selectAllChildren(document.querySelector('article bdi'))")
    jobs = [
        replace(JOB, overall_fraction=0.5, remaining_seconds=None),
        replace(JOB, job_id="call-2", stage="wait", fraction=None, overall_fraction=0.0),
    ]
    settings = [*STATUS.settings, Setting("TRANSCRIPTD_REDACT", "email", True)]
    site.status = replace(STATUS, at=AT + 1, jobs=jobs, settings=settings)
    await page.until(
        "document.querySelectorAll('article').length === 2 && document.querySelector('progress').value === 0.5"
    )
    assert await page.run("getSelection().toString()") == "call-8c2e41"
    assert await page.run("document.querySelector('details').open && document.querySelectorAll('tr').length") == 3
    assert (
        await page.run("document.querySelectorAll('article')[1].querySelector('progress').hasAttribute('value')")
        is False
    )
    site.status = replace(STATUS, jobs=[], at=AT + 2)
    await page.until(
        f"document.querySelector('article') === null && {MAIN}.textContent.includes('No jobs in progress')"
    )
    assert await page.run("document.title") == "idle · i-0abc · transcriptd"


async def test_lost_daemon_is_reported_and_found_again(page: Page, site: Site) -> None:
    await opened(page, site)
    await site.runner.cleanup()
    await page.until("document.body.classList.contains('stale') && live.textContent.startsWith('not connected')")
    site.status = replace(STATUS, jobs=[])
    await site.start(site.port)
    await page.until("live.textContent === 'live' && !document.body.classList.contains('stale')")
    await page.until("document.querySelector('article') === null")


@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_page_fits_the_width(page: Page, site: Site, width: int) -> None:
    long = "x" * 300
    site.status = replace(
        STATUS,
        receiving=replace(STATUS.receiving, last_error=long),
        jobs=[replace(JOB, job_id="j" * 128)],
        outcomes=[replace(OUTCOME, job_id="j" * 128, message=long, outcome="dead_lettered", warnings=(long,))],
        settings=[Setting("TRANSCRIPTD_" + "X" * 40, long, True)],
    )
    await page.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
    )
    await opened(page, site)
    await page.run("document.querySelector('details').open = true")
    assert await page.run("document.documentElement.scrollWidth") == width
