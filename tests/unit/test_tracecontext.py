"""W3C Trace Context, following https://www.w3.org/TR/trace-context/."""

from typing import Any

import pytest

from daemon.telemetry.tracecontext import MAX_TRACESTATE_CHARS, TraceContext, from_attributes, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (VALID, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"00-{TRACE}-{SPAN}-ff", 3),  # the meaning of the other flags is unknown
        (f" \t{VALID} ", 1),
        (f"01-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what the future will be like", 1),
        (f"cc-{TRACE}-{SPAN}-01-", 1),
    ],
)
def test_valid_traceparent(traceparent: str, flags: int) -> None:
    context = parse(traceparent)
    assert context == TraceContext(TRACE, SPAN, flags)
    assert context.headers() == {"traceparent": f"00-{TRACE}-{SPAN}-{flags:02x}"}
    assert context.exemplar == ({"trace_id": TRACE} if flags & 1 else None)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "traceparent",
        VALID[:-1],
        VALID + "-",
        VALID + "-00",
        VALID + "0",
        VALID + "\n",
        VALID.upper(),
        VALID.replace("-", "_"),
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.what",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 500}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",  # a digit, but not an ASCII one
    ],
)
def test_invalid_traceparent_is_ignored(traceparent: str) -> None:
    assert parse(traceparent, "vendor=x") is None


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        ("", None),
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (" a=1 ,, b@c=2\t", "a=1,b@c=2"),
        ("a=with space inside,0key=!-~", "a=with space inside,0key=!-~"),
        ("a=1\r\nHost: elsewhere", None),
        ("a=ü", None),
        ("A=1", None),
        ("a", None),
        ("a=", None),
        ("a=b=c", None),
        ("a=1,a=2", None),
        (",".join(f"k{number}=v" for number in range(32)), ",".join(f"k{number}=v" for number in range(32))),
        (",".join(f"k{number}=v" for number in range(33)), None),
        ("a=" + "x" * MAX_TRACESTATE_CHARS, None),
    ],
)
def test_tracestate_is_passed_on_or_dropped_separately(tracestate: str, kept: str | None) -> None:
    assert parse(VALID, tracestate) == TraceContext(TRACE, SPAN, 1, kept)


@pytest.mark.parametrize("attribute", [None, 7, "text", {}, {"StringValue": None}, {"BinaryValue": b"00-"}])
def test_attributes_that_are_not_strings_are_ignored(attribute: Any) -> None:
    assert from_attributes({"traceparent": attribute}) is None


def test_context_round_trips() -> None:
    context = TraceContext(TRACE, SPAN, 1, "vendor=x")
    assert from_attributes(context.attributes()) == context
    assert from_attributes({}) is None
