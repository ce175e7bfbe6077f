"""Answers that the proxy makes up, or changes."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict

from tests.chaos.schedule import Fault

HOP_BY_HOP = ("host", "connection", "transfer-encoding", "expect", "keep-alive", "content-length")
CUT_OFF = b'{"Messages": [{"MessageId": "b8f6", "Body": "{\\"job'


class Lie(StrEnum):
    """An invalid response with status 200. The call never reaches AWS."""

    PAGE = "page"  # HTML, as captive portals answer
    CUT_OFF = "cut off"  # the start of a JSON document with a matching Content-Length
    EMPTY = "empty"
    BINARY = "binary"


def made_up(fault: Fault | Lie, *, is_sqs: bool) -> web.Response | None:
    """Return the answer of a fault that does not forward the call, or None for other faults."""
    match fault:
        case Fault.ERROR:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", is_sqs=is_sqs)
        case Fault.SLOW_DOWN:
            code = "ServiceUnavailable" if is_sqs else "SlowDown"
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, code, is_sqs=is_sqs)
        case Fault.THROTTLED:
            return refusal(HTTPStatus.BAD_REQUEST, "RequestThrottled" if is_sqs else "RequestTimeout", is_sqs=is_sqs)
        case Fault.DENIED:
            status = HTTPStatus.BAD_REQUEST if is_sqs else HTTPStatus.FORBIDDEN
            return refusal(status, "AccessDeniedException" if is_sqs else "AccessDenied", is_sqs=is_sqs)
        case Fault.INVALID:
            code = "UnsupportedOperation" if is_sqs else "InvalidRequest"
            return refusal(HTTPStatus.BAD_REQUEST, code, is_sqs=is_sqs)
        case Fault.NOT_IMPLEMENTED:
            return refusal(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", is_sqs=is_sqs)
        case Fault.GARBAGE:
            return web.Response(status=HTTPStatus.BAD_GATEWAY, text="<html>\0not what you asked for")
        case Lie.PAGE:
            return web.Response(text="<html><body>Please log in</body></html>", content_type="text/html")
        case Lie.CUT_OFF:
            return web.Response(body=CUT_OFF, content_type="application/x-amz-json-1.0")
        case Lie.EMPTY:
            return web.Response()
        case Lie.BINARY:
            return web.Response(body=bytes(range(128, 256)))
    return None


def expired_key(*, is_sqs: bool) -> web.Response:
    """Return AWS's answer to a call that was signed with an expired key."""
    if is_sqs:
        return refusal(HTTPStatus.FORBIDDEN, "ExpiredTokenException", is_sqs=True)
    return refusal(HTTPStatus.BAD_REQUEST, "ExpiredToken", is_sqs=False)


def refusal(status: HTTPStatus, code: str, *, is_sqs: bool) -> web.Response:
    if is_sqs:
        return web.Response(
            status=status,
            body=json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "chaos"}).encode(),
            content_type="application/x-amz-json-1.0",
        )
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>chaos</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


def shorten(answer: web.Response) -> web.Response:
    """Halve the answer to a ranged read, with headers that fit. The last of several parts stays whole, so that a file
    with holes has the right size."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    if match is None or not isinstance(answer.body, bytes) or len(answer.body) < 2:
        return answer
    first, last, size = (int(number) for number in match.groups())
    if first > 0 and last == size - 1:
        return answer
    body = answer.body[: len(answer.body) // 2]
    headers = answer.headers.copy()
    headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{size}"
    return web.Response(status=answer.status, headers=without_hops(headers), body=body)


def without_hops(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict(headers)
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def abort(request: web.Request) -> web.Response:
    """Break the connection; the returned response reaches no one."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
