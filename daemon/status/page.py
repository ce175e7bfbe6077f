"""Renders the status page: a tree of elements, sent as HTML on load and patched into the page by `html/status.js`.

Neither path parses text as markup. The page's Content-Security-Policy allows only one script and one style sheet, by
their hashes, and forbids the script to turn strings into markup.
"""

import base64
import hashlib
import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple, TypeAlias

from daemon.jobs.tracker import ActiveJob, Outcome
from daemon.schema.job_status import STAGE_NAMES
from daemon.status.status_collector import RunnerInfo, Setting, Status

_ASSETS = files("daemon.status") / "html"
PAGE = Template((_ASSETS / "status.html").read_text("utf-8"))
STYLE = (_ASSETS / "status.css").read_text("utf-8")
SCRIPT = (_ASSETS / "status.js").read_text("utf-8")

OUTCOME_LEVELS = {"published": "good", "released": "plain", "cancelled": "plain", "retried": "warn"}  # others: bad
LOW_MARGIN_SECONDS = 15.0
WIDE_CHARS = 48  # longer values take the full width of the page


class Element(NamedTuple):
    """HTML element. Tag and attribute names are trusted; attribute values and text are not."""

    tag: str
    attributes: dict[str, str]
    children: "tuple[Node, ...]"


Node: TypeAlias = Element | str


def element(tag: str, *children: Node | None, **attributes: str) -> Element:
    """Build an element. `class_` becomes `class`; children that are None are dropped."""
    named = {name.rstrip("_").replace("_", "-"): _plain(value) for name, value in attributes.items()}
    kept = (_plain(child) if isinstance(child, str) else child for child in children if child is not None)
    return Element(tag, named, tuple(kept))


def to_html(node: Node) -> str:
    if isinstance(node, str):
        return escape(node)
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in node.attributes.items())
    return f"<{node.tag}{attributes}>{''.join(map(to_html, node.children))}</{node.tag}>"


def _plain(text: str) -> str:
    """Replace line breaks, characters that are invalid in HTML, and controls that change the text direction."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


def policy() -> str:
    """Return the Content-Security-Policy. It is the same for every status."""
    return (
        f"default-src 'none'; script-src '{_digest(SCRIPT)}'; style-src '{_digest(STYLE)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _digest(text: str) -> str:
    """Return a hash source as defined by Content Security Policy Level 3."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(status: Status) -> str:
    """Render the complete page."""
    body = "\n".join(to_html(part) for part in parts(status).values())
    return PAGE.substitute(title=escape(title(status)), style=STYLE, script=SCRIPT, body=body)


def title(status: Status) -> str:
    return _plain(f"{_verdict(status)[1]} · {status.daemon.worker_id} · transcriptd")


def parts(status: Status) -> dict[str, Element]:
    """Return the sections of the page by element ID."""
    made = (
        _now(status),
        _state(status),
        _jobs(status.jobs),
        _outcomes(status.outcomes, status.at),
        _settings(status.settings),
    )
    return {part.attributes["id"]: part for part in made}


# --- the parts ----------------------------------------------------------------------------------------------------


def _verdict(status: Status) -> tuple[str, str]:
    """Return the overall state for the top of the page: its level and a word or two."""
    receiving, phase = status.receiving, status.daemon.phase
    if phase != "running":
        return "warn", phase
    if receiving.paused or receiving.stalled:
        return "bad", "not receiving"
    if receiving.last_error:
        return "bad", "receive failed"
    return "good", "working" if status.jobs else "idle"


def _now(status: Status) -> Element:
    level, word = _verdict(status)
    receiving, now = status.receiving, status.at
    last, one = receiving.last_successful_poll, len(receiving.depths) == 1
    facts = [
        *(
            (
                "Queue" if one else f"Queue {name}",
                f"{depth.visible} waiting, {depth.in_flight} in flight" if depth else "depth unknown",
            )
            for name, depth in receiving.depths.items()
        ),
        ("Last successful receive", f"{span(now - last)} ago" if last is not None else "none yet"),
        ("As of", f"{_utc(now, now)} UTC"),
    ]
    reasons = [
        f"receiving is paused: {receiving.paused}" if receiving.paused else None,
        f"the last receive failed: {receiving.last_error}" if receiving.last_error else None,
        "no successful receive for too long: /readyz fails" if receiving.stalled else None,
    ]
    return element(
        "section",
        element("p", element("strong", word), f" for {span(now - status.daemon.since)}" if level == "warn" else None),
        *(element("p", reason) for reason in reasons if reason),
        _facts(facts),
        id="now",
        class_=level,
    )


def _state(status: Status) -> Element:
    daemon, now = status.daemon, status.at
    facts = [
        ("Daemon", f"{daemon.phase} for {span(now - daemon.since)}"),
        ("Worker", daemon.worker_id),
        ("Version", daemon.version),
        ("Host", f"{daemon.host}, pid {daemon.pid}"),
    ]
    runners = [_facts(_runner(runner, now)) for runner in status.runners]
    return element("section", element("h2", "State"), _facts(facts), *runners, id="state")


def _runner(runner: RunnerInfo, now: float) -> list[tuple[str, str]]:
    kind = f": {runner.device_name} ({runner.compute_type})" if runner.device_name else ""
    return [
        ("Device", runner.device + kind),
        ("Runner", f"{runner.state} for {span(now - runner.since)}"),
        ("Restarts", ", ".join(f"{count} × {reason}" for reason, count in runner.restarts.items()) or "none"),
        ("Memory", ", ".join(f"{where} {_bytes(size)}" for where, size in runner.memory_bytes.items()) or "unknown"),
        ("Models", ", ".join(f"{stage}: {name}" for stage, name in (runner.models or {}).items()) or "unknown"),
    ]


def _jobs(jobs: Sequence[ActiveJob]) -> Element:
    cards = [_job(job) for job in jobs] or [element("p", "No jobs in progress.", class_="none")]
    return element("section", element("h2", f"In progress ({len(jobs)})"), *cards, id="jobs")


def _job(job: ActiveJob) -> Element:
    doing = STAGE_NAMES.get(job.stage, job.stage)
    margin = job.lease_margin_seconds
    low = margin is not None and margin < LOW_MARGIN_SECONDS
    overall = job.overall_fraction
    bar = {"value": f"{overall:.3f}"} if overall > 0 else {}
    facts = [
        ("Elapsed", span(job.elapsed_seconds)),
        ("Recording", span(job.audio_seconds) if job.audio_seconds is not None else "—"),
        ("Remaining", f"≈ {_roughly(job.remaining_seconds)}" if job.remaining_seconds is not None else "—"),
        ("Lease margin", "—" if margin is None else span(margin) + (" (low)" if low else "")),
        ("Queue", job.queue),
        ("Attempt", str(job.attempt)),
        ("Receive count", str(job.receive_count)),
    ]
    return element(
        "article",
        element("h3", element("bdi", job.job_id or f"message {job.message_id}")),
        element(
            "p",
            element("span", doing if job.fraction is None else f"{doing}: {job.fraction:.0%}"),
            element("span", f"{overall:.0%}" if overall > 0 else ""),
            class_="stage",
        ),
        element("progress", max="1", aria_label="progress of the job", **bar),
        _facts(facts),
    )


def _outcomes(outcomes: Sequence[Outcome], now: float) -> Element:
    rows = [_outcome(each, now) for each in outcomes]
    found = element("ol", *rows) if rows else element("p", "None since start-up.", class_="none")
    return element("section", element("h2", f"Recent outcomes ({len(outcomes)})"), found, id="outcomes")


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
        detail.append("outcome call failed: the message will be redelivered")
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
    note = element("p", "Secrets are not shown.", class_="none")
    return element("section", element("details", summary, note, element("table", *rows)), id="settings")


def _facts(facts: Sequence[tuple[str, str]]) -> Element:
    return element("dl", *(_fact(name, value) for name, value in facts))


def _fact(name: str, value: str) -> Element:
    wide = {"class_": "wide"} if len(value) > WIDE_CHARS else {}
    return element("div", element("dt", name), element("dd", value), **wide)


# --- figures ------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """Format a duration in its two largest units."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _roughly(seconds: float) -> str:
    """Format an estimated duration, rounded to the precision of an estimate."""
    if seconds < 60:
        return f"{max(10, 10 * round(seconds / 10))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _bytes(size: float) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.0f} MiB"


def _utc(at: float, now: float) -> str:
    """Format a UTC time, with the date unless it is today."""
    moment, today = time.gmtime(at), time.gmtime(now)
    return time.strftime("%H:%M:%S" if moment[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", moment)
