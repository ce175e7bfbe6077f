"""W3C Trace Context: what ties a job to the request that asked for it. Pure. https://www.w3.org/TR/trace-context/"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"  # headers of HTTP, and message attributes of SQS

MAX_TRACEPARENT_CHARS = 512  # of a version to come; those of ours have 55
MAX_TRACESTATE_CHARS = 512
MAX_TRACESTATE_MEMBERS = 32

SAMPLED = 0x01
KNOWN_FLAGS = 0x03  # sampled, and random trace id

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace, for what comes after it."""

    trace_id: str  # 32 hexadecimal digits, lower case
    span_id: str  # 16
    flags: int
    state: str | None = None  # vendors' own, passed on as it is

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded, by whoever began it."""
        return bool(self.flags & SAMPLED)

    @property
    def exemplar(self) -> dict[str, str] | None:
        """For an observation of a metric: the trace that can be looked up."""
        return {"trace_id": self.trace_id} if self.sampled else None

    def headers(self) -> dict[str, str]:
        parent = {TRACEPARENT: f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"}
        return parent | ({TRACESTATE: self.state} if self.state else {})

    def attributes(self) -> dict[str, Any]:
        """The same as SQS takes message attributes."""
        return {name: {"DataType": "String", "StringValue": value} for name, value in self.headers().items()}


def parse(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """The context that the headers tell; None where they tell none. An invalid tracestate is dropped by itself."""
    if len(traceparent) > MAX_TRACEPARENT_CHARS:
        return None
    found = _TRACEPARENT.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    # Later versions may add to the end, and nothing else.
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if set(trace_id) == {"0"} or set(span_id) == {"0"}:
        return None
    return TraceContext(trace_id, span_id, int(flags, 16) & KNOWN_FLAGS, _state(tracestate))


def from_attributes(attributes: Mapping[str, Any]) -> TraceContext | None:
    """The context in a message's attributes, in SQS's shape; None without a valid one."""
    return parse(_text(attributes, TRACEPARENT), _text(attributes, TRACESTATE))


def _text(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name)
    text = value.get("StringValue") if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def _state(text: str) -> str | None:
    if len(text) > MAX_TRACESTATE_CHARS:
        return None
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    valid = len(keys) == len(members) <= MAX_TRACESTATE_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return ",".join(members) if members and valid else None
