"""A headless Chromium for tests, driven over the DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

import asyncio
import os
import re
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, create_subprocess_exec
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp

from bench.waiting import PATIENCE_SECONDS

FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-renderer-backgrounding",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--window-size=1200,900",
)

_KEYS = {" ": ("Space", 32), "/": ("Slash", 191), "Enter": ("Enter", 13), "Escape": ("Escape", 27), "Tab": ("Tab", 9)}
_KEYS |= {name: (name, code) for code, name in enumerate(("End", "Home"), 35)}
_KEYS |= {f"Arrow{name}": (f"Arrow{name}", code) for code, name in enumerate(("Left", "Up", "Right", "Down"), 37)}

_STILL_FRAMES = 5


class ScriptFailed(Exception):
    """JavaScript evaluated by a test raised an exception."""


class Page:
    """One tab. `requests` holds the URLs it requested, `complaints` the console messages and blocked requests."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._session_id: str | None = None
        self._target_id: str | None = None
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._waiting: dict[str, list[asyncio.Future[dict[str, Any]]]] = defaultdict(list)
        self._reader = asyncio.create_task(self._read())
        self.requests: list[str] = []
        self.complaints: list[str] = []

    @classmethod
    async def open(cls, socket: aiohttp.ClientWebSocketResponse) -> Self:
        page = cls(socket)
        target = await page.send("Target.createTarget", url="about:blank")
        attached = await page.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page._target_id, page._session_id = target["targetId"], attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            await page.send(f"{domain}.enable")
        # Request again what an earlier page has cached.
        await page.send("Network.setCacheDisabled", cacheDisabled=True)
        return page

    async def close(self) -> None:
        if self._target_id is not None:
            target_id, self._session_id = self._target_id, None
            await self.send("Target.closeTarget", targetId=target_id)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = len(self._replies)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(
            message if self._session_id is None else {**message, "sessionId": self._session_id}
        )
        answer = await asyncio.wait_for(reply, PATIENCE_SECONDS)
        if "error" in answer:
            raise ScriptFailed(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def goto(self, url: str) -> None:
        loaded: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting["Page.loadEventFired"].append(loaded)
        await self.send("Page.navigate", url=url)
        await asyncio.wait_for(loaded, PATIENCE_SECONDS)

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        result = await self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=False
        )
        if "exceptionDetails" in result:
            raise ScriptFailed(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Return the value of a JavaScript expression once it is truthy. Raise after a timeout that only a broken page
        reaches."""
        check = f"(done) => {{const check = () => {{const v = ({condition}); v ? done(v) : setTimeout(check, 50)}}; check()}}"
        return await self.run(f"new Promise({check})")

    async def click(self, selector: str, number: int = 0) -> None:
        """Click the middle of the element after scrolling it into view and waiting until it stops moving.

        With `content-visibility`, elements get their real height only when they come into view, which moves the element
        for some frames.
        """
        x, y = await self.run(f"""new Promise(done => {{
            const element = document.querySelectorAll({selector!r})[{number}];
            let before = "", still = 0;
            const look = () => {{
                element.scrollIntoView({{block: "center", behavior: "instant"}});
                const box = element.getClientRects()[0];
                const now = [scrollY, box.left + box.width / 2, box.top + box.height / 2];
                still = String(now) === before ? still + 1 : 0;
                before = String(now);
                still === {_STILL_FRAMES} ? done(now.slice(1)) : requestAnimationFrame(look);
            }};
            look();
        }})""")
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        code, number = _KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()) if len(key) == 1 else 0))
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def write(self, text: str) -> None:
        await self.send("Input.insertText", text=text)

    async def _read(self) -> None:
        async for frame in self._socket:
            message = frame.json()
            if "id" in message:
                reply = self._replies[message["id"]]
                if not reply.done():
                    reply.set_result(message)
                continue
            method, params = message["method"], message["params"]
            self._note(method, params)
            for waiting in self._waiting.pop(method, []):
                waiting.set_result(params)

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(str(params["entry"]))
            case "Audits.issueAdded" if params["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.complaints.append(str(params["issue"]))


@asynccontextmanager
async def chromium(program: str) -> AsyncIterator[str]:
    """Start a browser with an empty profile and yield the address for `open_page`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's sandbox does not run as root
        process = await create_subprocess_exec(program, *flags, "about:blank", stdout=DEVNULL, stderr=PIPE)
        assert process.stderr is not None
        drain = None
        try:
            address = await asyncio.wait_for(_address(process.stderr), PATIENCE_SECONDS)
            drain = asyncio.create_task(process.stderr.read())  # a full pipe would block the browser
            yield address
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            if drain:
                await drain


@asynccontextmanager
async def open_page(address: str) -> AsyncIterator[Page]:
    """Open a new tab in the browser."""
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        page = await Page.open(socket)
        try:
            yield page
        finally:
            await page.close()


async def _address(stderr: asyncio.StreamReader) -> str:
    """Return the address that Chromium reports listening on."""
    said = b""
    async for line in stderr:
        said += line
        if found := re.match(rb"DevTools listening on (ws://\S+)", line):
            return found[1].decode()
    raise AssertionError(f"Chromium exited: {said.decode(errors='replace')}")
