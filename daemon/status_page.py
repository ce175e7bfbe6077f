"""The status page: a snapshot as a tree of elements, which is written as HTML here and patched into the page by
`html/status.js`. In both, text is never parsed as markup; and the page's own Content-Security-Policy runs one script and
one style, known by their hashes, in which no string can be made into markup either.
"""

import base64
import hashlib
import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple, TypeAlias

from daemon.snapshot import RunnerInfo, Setting, Snapshot
from daemon.status import JobInHand, Outcome

_ASSETS = files("daemon") / "html"
PAGE = Template((_ASSETS / "status.html").read_text("utf-8"))
STYLE = (_ASSETS / "status.css").read_text("utf-8")
SCRIPT = (_ASSETS / "status.js").read_text("utf-8")

STAGE_NAMES = {
    "check": "checking the message",
    "download": "downloading",
    "decode": "decoding",
    "wait": "waiting for the device",
    "vad": "finding speech",
    "asr": "recognising speech",
    "align": "timing words",
    "diarize": "telling speakers apart",
    "publish": "publishing",
    "settle": "settling the message",
}
OUTCOME_LEVELS = {"deleted": "good", "released": "plain", "retried": "warn"}  # others: bad
LOW_MARGIN_SECONDS = 15.0
WIDE_CHARS = 48  # a longer fact takes the width of the page


class Element(NamedTuple):
    """Names of tags and attributes are ours; values and text may be anyone's."""

    tag: str
    attributes: dict[str, str]
    children: "tuple[Node, ...]"


Node: TypeAlias = Element | str


def element(tag: str, *children: Node | None, **attributes: str) -> Element:
    """`class_` stands for class. Children that are None are left out."""
    named = {name.rstrip("_").replace("_", "-"): _plain(value) for name, value in attributes.items()}
    kept = (_plain(child) if isinstance(child, str) else child for child in children if child is not None)
    return Element(tag, named, tuple(kept))


def to_html(node: Node) -> str:
    if isinstance(node, str):
        return escape(node)
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in node.attributes.items())
    return f"<{node.tag}{attributes}>{''.join(map(to_html, node.children))}</{node.tag}>"


def _plain(text: str) -> str:
    """On one line, without what is no character of HTML or turns the direction of the text around it."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


def policy() -> str:
    """The Content-Security-Policy. Nothing in it depends on a snapshot."""
    return (
        f"default-src 'none'; script-src '{_digest(SCRIPT)}'; style-src '{_digest(STYLE)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _digest(text: str) -> str:
    """A hash source of Content Security Policy Level 3."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(snapshot: Snapshot) -> str:
    """The whole page."""
    body = "\n".join(to_html(part) for part in parts(snapshot).values())
    return PAGE.substitute(title=escape(title(snapshot)), style=STYLE, script=SCRIPT, body=body)


def title(snapshot: Snapshot) -> str:
    return _plain(f"{_verdict(snapshot)[1]} · {snapshot.daemon.worker_id} · transcriptd")


def parts(snapshot: Snapshot) -> dict[str, Element]:
    """The page's parts by the id of their element."""
    made = (
        _now(snapshot),
        _state(snapshot),
        _jobs(snapshot.jobs),
        _outcomes(snapshot.outcomes, snapshot.at),
        _settings(snapshot.settings),
    )
    return {part.attributes["id"]: part for part in made}


# --- the parts ----------------------------------------------------------------------------------------------------


def _verdict(snapshot: Snapshot) -> tuple[str, str]:
    """What somebody who was woken up wants to know first: its level, and a word or two."""
    receiving, phase = snapshot.receiving, snapshot.daemon.phase
    if phase != "running":
        return "warn", phase
    if receiving.paused or receiving.stalled:
        return "bad", "not receiving"
    if receiving.trouble:
        return "bad", "receive failed"
    return "good", "working" if snapshot.jobs else "idle"


def _now(snapshot: Snapshot) -> Element:
    level, word = _verdict(snapshot)
    receiving, now = snapshot.receiving, snapshot.at
    depth, last = receiving.depth, receiving.last_successful_poll
    facts = [
        ("Queue", f"{depth.visible} waiting, {depth.in_flight} in flight" if depth else "depth not known"),
        ("Last successful receive", f"{span(now - last)} ago" if last is not None else "none yet"),
        ("As of", f"{_utc(now, now)} UTC"),
    ]
    reasons = [
        f"receiving is paused: {receiving.paused}" if receiving.paused else None,
        f"the last receive failed: {receiving.trouble}" if receiving.trouble else None,
        "no receive has succeeded for too long: readiness fails" if receiving.stalled else None,
    ]
    return element(
        "section",
        element("p", element("strong", word), f" for {span(now - snapshot.daemon.since)}" if level == "warn" else None),
        *(element("p", reason) for reason in reasons if reason),
        _facts(facts),
        id="now",
        class_=level,
    )


def _state(snapshot: Snapshot) -> Element:
    daemon, now = snapshot.daemon, snapshot.at
    facts = [
        ("Daemon", f"{daemon.phase} for {span(now - daemon.since)}"),
        ("Worker", daemon.worker_id),
        ("Version", daemon.version),
        ("Host", f"{daemon.host}, pid {daemon.pid}"),
    ]
    runners = [_facts(_runner(runner, now)) for runner in snapshot.runners]
    return element("section", element("h2", "State"), _facts(facts), *runners, id="state")


def _runner(runner: RunnerInfo, now: float) -> list[tuple[str, str]]:
    kind = f": {runner.device_name} ({runner.compute_type})" if runner.device_name else ""
    return [
        ("Device", runner.device + kind),
        ("Runner", f"{runner.state} for {span(now - runner.since)}"),
        ("Restarts", ", ".join(f"{count} × {reason}" for reason, count in runner.restarts.items()) or "none"),
        ("Memory", ", ".join(f"{where} {_bytes(size)}" for where, size in runner.memory_bytes.items()) or "not known"),
        ("Models", ", ".join(f"{stage}: {name}" for stage, name in (runner.models or {}).items()) or "not known"),
    ]


def _jobs(jobs: Sequence[JobInHand]) -> Element:
    cards = [_job(job) for job in jobs] or [element("p", "No job in hand.", class_="none")]
    return element("section", element("h2", f"In hand ({len(jobs)})"), *cards, id="jobs")


def _job(job: JobInHand) -> Element:
    doing = STAGE_NAMES.get(job.stage, job.stage)
    margin = job.lease_margin_seconds
    low = margin is not None and margin < LOW_MARGIN_SECONDS
    bar = {} if job.fraction is None else {"value": f"{job.fraction:.3f}"}
    facts = [
        ("Elapsed", span(job.elapsed_seconds)),
        ("Recording", span(job.audio_seconds) if job.audio_seconds is not None else "—"),
        ("Left (estimate)", f"≈ {_roughly(job.left_seconds)}" if job.left_seconds is not None else "—"),
        ("Lease margin", "—" if margin is None else span(margin) + (" (low)" if low else "")),
        ("Attempt", str(job.attempt)),
        ("Receive count", str(job.receive_count)),
    ]
    return element(
        "article",
        element("h3", element("bdi", job.job_id or f"message {job.message_id}")),
        element(
            "p",
            element("span", doing),
            element("span", "" if job.fraction is None else f"{job.fraction:.0%}"),
            class_="stage",
        ),
        element("progress", max="1", aria_label=doing, **bar),
        _facts(facts),
    )


def _outcomes(outcomes: Sequence[Outcome], now: float) -> Element:
    rows = [_outcome(each, now) for each in outcomes]
    found = element("ol", *rows) if rows else element("p", "None since the start.", class_="none")
    return element("section", element("h2", f"Last outcomes ({len(outcomes)})"), found, id="outcomes")


def _outcome(each: Outcome, now: float) -> Element:
    level = OUTCOME_LEVELS.get(each.outcome, "bad") if each.settled else "bad"
    detail = [f"took {span(each.duration_seconds)}"]
    if each.audio_seconds is not None:
        detail.append(f"audio {span(each.audio_seconds)}")
    if each.attempt > 1:
        detail.append(f"attempt {each.attempt}")
    if each.warnings:
        detail.append(f"warnings: {', '.join(each.warnings)}")
    if not each.settled:
        detail.append("not carried out: the message comes back")
    return element(
        "li",
        element("span", _utc(each.at, now), class_="at"),
        element("span", each.outcome.replace("_", " "), class_=f"badge {level}"),
        element("bdi", each.job_id or f"message {each.message_id}", class_="id"),
        element("code", each.reason),
        element("span", " · ".join(detail), class_="detail"),
        element("p", each.message, dir="auto") if each.message else None,
    )


def _settings(settings: Sequence[Setting]) -> Element:
    rows = [
        element(
            "tr",
            element("th", each.name, scope="row"),
            element("td", each.value),
            element("td", "changed" if each.changed else "default"),
            class_="changed" if each.changed else "default",
        )
        for each in sorted(settings, key=lambda each: not each.changed)
    ]
    changed = sum(each.changed for each in settings)
    summary = element("summary", element("h2", f"Settings ({changed} of {len(settings)} changed)"))
    note = element("p", "Secrets are left out.", class_="none")
    return element("section", element("details", summary, note, element("table", *rows)), id="settings")


def _facts(facts: Sequence[tuple[str, str]]) -> Element:
    return element("dl", *(_fact(name, value) for name, value in facts))


def _fact(name: str, value: str) -> Element:
    wide = {"class_": "wide"} if len(value) > WIDE_CHARS else {}
    return element("div", element("dt", name), element("dd", value), **wide)


# --- figures ------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """A duration, its two largest units."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _roughly(seconds: float) -> str:
    """No more exact than an estimate is."""
    if seconds < 60:
        return f"{max(10, 10 * round(seconds / 10))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.0f} MiB"


def _utc(at: float, now: float) -> str:
    """The time, with the date unless it is today's."""
    moment, today = time.gmtime(at), time.gmtime(now)
    return time.strftime("%H:%M:%S" if moment[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", moment)
