"""W3C Trace Context, which links a job to the request that published it. Pure. https://www.w3.org/TR/trace-context/"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"  # HTTP headers and SQS message attributes

MAX_TRACEPARENT_CHARS = 512  # for future versions; the current version has 55
MAX_TRACESTATE_CHARS = 512
MAX_TRACESTATE_MEMBERS = 32

SAMPLED = 0x01
KNOWN_FLAGS = 0x03  # sampled, random trace ID

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Position in a trace: the parent of further spans."""

    trace_id: str  # 32 hexadecimal digits, lower case
    span_id: str  # 16
    flags: int
    state: str | None = None  # vendor-specific, passed on unchanged

    @property
    def sampled(self) -> bool:
        """Whether the caller records the trace."""
        return bool(self.flags & SAMPLED)

    @property
    def exemplar(self) -> dict[str, str] | None:
        """Exemplar for a metric observation, if the trace is recorded."""
        return {"trace_id": self.trace_id} if self.sampled else None

    def headers(self) -> dict[str, str]:
        parent = {TRACEPARENT: f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"}
        return parent | ({TRACESTATE: self.state} if self.state else {})

    def attributes(self) -> dict[str, Any]:
        """Return the headers as SQS message attributes."""
        return {name: {"DataType": "String", "StringValue": value} for name, value in self.headers().items()}


def parse(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """Parse the headers; None if traceparent is invalid. An invalid tracestate alone is dropped."""
    if len(traceparent) > MAX_TRACEPARENT_CHARS:
        return None
    found = _TRACEPARENT.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    # Later versions may only append fields.
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if set(trace_id) == {"0"} or set(span_id) == {"0"}:
        return None
    return TraceContext(trace_id, span_id, int(flags, 16) & KNOWN_FLAGS, _state(tracestate))


def from_attributes(attributes: Mapping[str, Any]) -> TraceContext | None:
    """Read the context from SQS message attributes; None without a valid traceparent."""
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
