"""The page in a real browser: served over HTTP with a real recording, operated by mouse and keyboard."""

import re
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from daemon.outputs import Presentation, render
from daemon.schema.transcript import Segment, Transcript, TranscriptWarning, Word
from tests.support.browser import Page
from tests.support.media.files import chirp, make_wav
from tests.support.transcripts import HOSTILE, transcript

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECORDING_SECONDS = 300  # playback on a slow machine must not reach its end
STEP_SECONDS = 0.5  # from the start of a word to the start of the next one

WORDS = "[...document.querySelectorAll('main p > *')]"
LIT = f"{WORDS}.map((word, index) => word.matches('.lit') ? index : -1).filter(index => index >= 0)"


class Site:
    """A loopback server for pages and the recording. `asked` holds the paths that browsers requested."""

    def __init__(self, recording: Path) -> None:
        self.url = ""
        self.asked: list[str] = []
        self._recording = recording
        self._pages: dict[str, bytes] = {}

    def add(self, document: Transcript, audio_url: str | None = "call.wav") -> str:
        """Add a page for the transcript and return its URL."""
        path = f"/{len(self._pages)}.html"
        self._pages[path] = render(document, ["html"], Presentation(audio_url=audio_url))[0].body
        return self.url + path

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path == "/call.wav":
            return web.FileResponse(self._recording)
        if body := self._pages.get(request.path):
            return web.Response(body=body, content_type="text/html", charset="utf-8")
        return web.Response(status=404)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    site = Site(make_wav(tmp_path_factory.mktemp("site") / "call.wav", chirp(RECORDING_SECONDS)))
    application = web.Application()
    application.router.add_get("/{path:.*}", site.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield site
    await runner.cleanup()


def said(
    text: str, start: float, speaker: str | None = "SPEAKER_00", scores: dict[str, float] | None = None
) -> Segment:
    """Return a segment with a word every half second, each 0.4 s long."""
    words = [
        Word(
            word=word,
            start=start + index * STEP_SECONDS,
            end=start + index * STEP_SECONDS + 0.4,
            score=(scores or {}).get(word, 0.9),
            speaker=speaker,
            overlap=None,
        )
        for index, word in enumerate(text.split())
    ]
    return Segment(
        start=start,
        end=words[-1].end,
        text=text,
        speaker=speaker,
        avg_logprob=None,
        words=words,
        overlap=None,
        confidence=None,
        language="en",
    )


CALL = transcript(
    said("Good morning to all of you, one and all.", 1, "SPEAKER_00", {"one": 0.2, "you,": 0.3}),  # words 0 to 8
    said("Morning! Is this C++ (or C)?", 7, "SPEAKER_01"),  # words 9 to 14, to 9.9 s; a pause
    said("It is neither. Good night.", 15, "SPEAKER_00"),  # words 15 to 19
)
LONG = transcript(*(said(f"Sentence {number} of very many", 2.5 * number, f"S{number % 2}") for number in range(80)))


async def seek(page: Page, seconds: float) -> None:
    await page.run(
        f"new Promise(done => {{audio.addEventListener('seeked', done, {{once: true}}); audio.currentTime = {seconds}}})"
    )


async def opened(page: Page, url: str) -> Page:
    """The page with the recording loaded; `sought` records every seek."""
    await page.goto(url)
    await page.run("window.sought = []; audio.addEventListener('seeking', () => sought.push(audio.currentTime))")
    await page.until("audio.readyState >= 1 || audio.hidden || audio.error")
    return page


# --- listening ----------------------------------------------------------------------------------------------------


async def test_click_on_a_word_plays_it_and_loads_nothing_else(page: Page, site: Site) -> None:
    url = site.add(CALL)
    site.asked.clear()
    await opened(page, url)
    await page.click("main p > *", 11)
    await page.until("!audio.paused && audio.currentTime > 8")
    assert await page.run("sought") == [8]
    await page.until(f"{LIT}[0] >= 12")
    assert {request for request in page.requests if not request.startswith("data:")} == {url, site.url + "/call.wav"}
    assert set(site.asked) == {url.removeprefix(site.url), "/call.wav"}
    assert page.complaints == []


async def test_spoken_word_is_highlighted(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    lit = {}
    for seconds in (0, 0.9, 1, 1.2, 1.5, 5.3, 7, 9.6, 9.9, 10.3, 14.9, 15, 17.39, 20):
        await seek(page, seconds)
        lit[seconds] = await page.run(LIT)
    assert lit == {
        **{0: [], 0.9: [], 1: [0], 1.2: [0], 1.5: [1], 5.3: [8], 7: [9], 9.6: [14], 9.9: [14]},
        **{10.3: [], 14.9: [], 15: [15], 17.39: [19], 20: []},
    }


async def test_highlight_moves_while_playing(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    await page.run("window.seen = []")
    await page.run(
        f"new MutationObserver(() => seen.push({LIT})).observe(transcript, {{subtree: true, attributes: true}})"
    )
    await page.click("main p > *", 2)
    await page.until("seen.flat().some((word) => word >= 6)")
    seen = await page.run("seen")
    assert all(len(lit) <= 1 for lit in seen)
    order = [lit[0] for lit in seen if lit]
    assert all(before <= after for before, after in pairwise(order))


async def test_overlapping_words_are_highlighted_in_order_of_time(page: Page, site: Site) -> None:
    both = transcript(said("one two three", 1, "A"), said("yes no", 1.25, "B"))
    await opened(page, site.add(both))
    lit = []
    for seconds in (1, 1.25, 1.5, 1.75, 2):
        await seek(page, seconds)
        lit += await page.run(LIT)
    assert lit == [0, 3, 1, 4, 2]


async def test_link_to_a_time_seeks_there(page: Page, site: Site) -> None:
    await opened(page, site.add(LONG) + "#t=55")
    assert await page.run("audio.currentTime") == 55
    assert await page.run(LIT) == [110]
    assert await page.run("scrollY") > 0
    await page.click("main a", 10)
    await page.until("sought.includes(25) && !audio.paused")
    assert await page.run("location.hash") == "#t=25.000"


async def test_page_follows_playback_unless_disabled(page: Page, site: Site) -> None:
    await opened(page, site.add(LONG))
    await seek(page, 30)
    followed = await page.run("scrollY")
    assert followed > 0
    await page.click("#follow")
    await page.run("scrollTo(0, 0)")
    await seek(page, 40)
    assert (await page.run(LIT), await page.run("scrollY")) == ([80], 0)
    await page.click("#follow")
    assert await page.run("scrollY") > followed


async def test_page_does_not_scroll_against_the_reader_who_can_return(page: Page, site: Site) -> None:
    await opened(page, site.add(LONG))
    await page.click("main p > *", 100)
    await page.until(f"{LIT}[0] >= 101")
    await page.run("scrollTo(0, 0)")
    await page.until(f"{LIT}[0] > 103 && !back.hidden")
    assert await page.run("scrollY") == 0
    await page.click("#back")
    await page.until("scrollY > 0 && back.hidden")


async def test_local_recording_can_be_chosen(page: Page, site: Site, tmp_path: Path) -> None:
    await opened(page, site.add(CALL, None))
    assert await page.run("audio.hidden")
    await page.click("main p > *", 11)
    assert "no recording" in await page.run("document.getElementById('status').textContent")
    document = await page.send("DOM.getDocument")
    found = await page.send("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
    file = str(make_wav(tmp_path / "mine.wav", chirp(30)))
    await page.send("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[file])
    await page.until("audio.readyState >= 1 && !audio.hidden")
    await page.click("main p > *", 11)
    await page.until("!audio.paused && sought.includes(8)")
    assert page.complaints == []


async def test_missing_recording_is_reported(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL, "gone.wav"))
    await page.until("document.getElementById('status').textContent.includes('could not be loaded')")
    assert await page.run("file.checkVisibility()")


# --- search -------------------------------------------------------------------------------------------------------


async def search(page: Page, text: str) -> tuple[str, list[str]]:
    """Return the status text of the search and the texts it highlights."""
    await page.run("query.value = ''; query.focus()")
    await page.run("count.value = 'waiting'")
    await page.send("Input.insertText", text=text)
    await page.until("count.value !== 'waiting'")
    painted = """[...CSS.highlights.get('hit')].map(hit => {
        const range = document.createRange();
        range.setStart(hit.startContainer, hit.startOffset);
        range.setEnd(hit.endContainer, hit.endOffset);
        return range.toString();
    })"""
    return await page.run("count.value"), await page.run(painted)


async def test_search_counts_and_highlights_hits(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    before = await page.run("transcript.textContent")
    assert await search(page, "good") == ("1 of 2", ["Good", "Good"])
    assert await search(page, "C++ (or") == ("1 of 1", ["C++ (or"])
    assert await search(page, "MORNING") == ("1 of 2", ["morning", "Morning"])
    assert await search(page, "all") == ("1 of 2", ["all", "all"])
    assert await search(page, "\\d|.") == ("no match", [])
    assert await search(page, "^.") == ("no match", [])
    assert await search(page, "</p>") == ("no match", [])
    assert await page.run("next.disabled")
    assert await page.run("transcript.textContent") == before


async def test_search_wraps_around(page: Page, site: Site) -> None:
    await opened(page, site.add(LONG))
    counts = [(await search(page, "sentence"))[0]]
    for step in ("next", "next", "previous", "previous", "previous"):
        await page.click(f"#{step}")
        counts.append(await page.run("count.value"))
    assert counts == ["1 of 80", "2 of 80", "3 of 80", "2 of 80", "1 of 80", "80 of 80"]
    assert await page.run("scrollY") > 0
    await page.run("query.focus()")
    await page.press("Enter")
    assert await page.run("count.value") == "1 of 80"
    await page.press("Escape")
    assert await page.run("[query.value, count.value, CSS.highlights.get('hit').size]") == ["", "", 0]


async def test_uncertain_words_are_marked_until_the_reader_hides_the_marks(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    marked = (
        f"{WORDS}.filter(word => getComputedStyle(word).textDecorationLine === 'underline').map(w => w.textContent)"
    )
    assert await page.run(marked) == ["you,", "one"]
    await page.click("#uncertain")
    assert await page.run(marked) == []
    await page.click("#uncertain")
    assert await page.run(marked) == ["you,", "one"]


# --- keyboard -----------------------------------------------------------------------------------------------------

FOCUS = f"{WORDS}.indexOf(document.activeElement)"


async def test_arrows_move_within_the_text_which_is_one_tab_stop(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    stops = f"{WORDS}.concat(...document.querySelectorAll('main a')).filter(stop => stop.tabIndex >= 0).length"
    assert await page.run(stops) == 1
    await page.run("document.querySelector('#tools label:last-child input').focus()")
    places = []
    for key in "Tab ArrowRight ArrowRight ArrowLeft ArrowDown ArrowDown ArrowDown ArrowUp End ArrowRight Home ArrowLeft".split():
        await page.press(key)
        places.append(await page.run(FOCUS))
    assert places == [0, 1, 2, 1, 9, 15, 15, 9, 19, 19, 0, 0]
    assert await page.run(stops) == 1
    await page.press("ArrowDown")
    await page.press("Enter")
    await page.until("!audio.paused && sought.includes(7)")


async def test_arrows_follow_the_script_of_the_language(page: Page, site: Site) -> None:
    await opened(page, site.add(transcript(said("صباح الخير للجميع", 1))))
    assert await page.run("getComputedStyle(document.querySelector('main p')).direction") == "rtl"
    await page.run(f"{WORDS}[0].focus()")
    await page.press("ArrowLeft")
    assert await page.run(FOCUS) == 1


async def test_keys_play_pause_seek_and_search(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    await page.press("l")
    await page.until("sought.at(-1) === 10")
    await page.press("j")
    await page.until("sought.at(-1) === 0")
    for play, pause in (("k", "k"), (" ", " ")):
        await page.press(play)
        await page.until("!audio.paused")
        await page.press(pause)
        await page.until("audio.paused")
    await page.press("/")
    assert await page.run("document.activeElement.id") == "query"
    await page.press("k")
    assert await page.run("[query.value, audio.paused]") == ["k", True]


async def test_shortcuts_can_be_disabled(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    assert "Space" in await page.run("help.textContent")
    await page.run("help.open = true")
    await page.click("#shortcuts")
    await page.run("document.activeElement.blur()")
    await page.press("l")
    await page.press("/")
    assert await page.run("[sought, document.activeElement.tagName]") == [[], "BODY"]


# --- appearance ---------------------------------------------------------------------------------------------------


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two opaque colours given as `rgb(…)` (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_has_enough_contrast_in_light_and_dark_mode(page: Page, site: Site, scheme: str) -> None:
    people = transcript(*(said("Me too.", 2 * number, f"S{number}") for number in range(9)))
    await page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await opened(page, site.add(people))
    await page.run("document.querySelector('main p > *').classList.add('lit')")
    colours = """[...document.querySelectorAll('h1, dt, dd, .turn h2, .badge, main a, main p > *, #tools label')].map(one => {
        let ground = one;
        while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentNode;
        return [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
    })"""
    pairs: list[list[str]] = await page.run(colours)
    assert {(ink, ground): ratio for ink, ground in pairs if (ratio := contrast(ink, ground)) < 4.5} == {}
    ground = await page.run("getComputedStyle(document.body).backgroundColor")
    assert (contrast(ground, "rgb(255, 255, 255)") < 2) == (scheme == "light")
    speakers = await page.run("[...document.querySelectorAll('.turn h2')].map(name => getComputedStyle(name).color)")
    assert len(set(speakers)) == 8


async def test_print_contains_only_words_and_speakers(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    await page.send("Emulation.setEmulatedMedia", media="print")
    shown = "['#bar', '#help', '.badge', '.turn h2', 'main a', 'main p'].filter(one => document.querySelector(one).checkVisibility())"
    assert await page.run(shown) == [".turn h2", "main a", "main p"]
    assert "SPEAKER_01\n00:00:07\nMorning! Is this C++ (or C)?" in re.sub(
        r"\n+", "\n", await page.run("transcript.innerText")
    )
    assert (await page.send("Page.printToPDF"))["data"]


async def test_without_javascript_text_and_player_remain(page: Page, site: Site) -> None:
    await page.send("Emulation.setScriptExecutionDisabled", value=True)
    await page.goto(site.add(CALL))
    shown = "['audio', 'main p', '.legend', '#tools', '#help', '#chooser', '#back'].filter(one => document.querySelector(one).checkVisibility())"
    assert await page.run(shown) == ["audio", "main p", ".legend"]
    assert page.complaints == []


# --- safety and size ----------------------------------------------------------------------------------------------

ATTACKS = [
    "<img src=x onerror=pwned=1>",
    "</script><script>pwned=1</script>",
    "</style><style>*{display:none}</style>",
    '"><svg onload=pwned=1>',
    "' onmouseover=pwned=1 '",
    "<!--<script>",
    "]]>&lt;&#60;",
    *HOSTILE,
]


async def test_spoken_text_stays_text(page: Page, site: Site) -> None:
    attack = " ".join(ATTACKS)
    segments = [said(text, 2.0 * number, text) for number, text in enumerate(ATTACKS) if text.split()]
    document = transcript(*segments, warnings=(TranscriptWarning(code=attack, stage=attack, message=attack),))
    await opened(page, site.add(document.model_copy(update={"job_id": attack, "language": attack})))
    assert await page.run("[typeof pwned, document.images.length, document.scripts.length]") == ["undefined", 0, 2]
    texts: list[str] = await page.run("[...document.querySelectorAll('main p')].map(one => one.textContent)")
    assert "</script><script>pwned=1</script>" in texts
    assert page.complaints == []


async def test_policy_blocks_injected_content(page: Page, site: Site) -> None:
    await opened(page, site.add(CALL))
    attack: dict[str, Any] = {
        "script": "const s = document.createElement('script'); s.textContent = 'pwned = 1'; document.body.append(s)",
        "handler": "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=pwned=1>')",
        "style": "document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\">')",
    }
    for script in attack.values():
        await page.run(f"(() => {{{script}}})()")
    assert await page.run("fetch('/call.wav').then(() => 'loaded', () => 'refused')") == "refused"
    assert await page.run("typeof pwned") == "undefined"
    assert len(page.complaints) >= len(attack)


async def test_six_hours_of_words(page: Page, site: Site) -> None:
    hours = transcript(
        *(said("ten words that somebody said in the course of today", 6.0 * n, f"S{n // 5 % 3}") for n in range(6000))
    )
    await opened(page, site.add(hours, None) + "#t=35996.6")
    assert await page.run(f"{WORDS}.length") == 60_000
    assert await page.run(LIT) == [59_995]
    assert (await search(page, "course of"))[0] == "1 of 6000"
    assert await page.run(f"{FOCUS}") == -1
    await page.run(f"{WORDS}[0].focus()")
    await page.press("End")
    assert await page.run(FOCUS) == 59_999
    assert page.complaints == []
