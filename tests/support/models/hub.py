"""A model hub on loopback, over real HTTP, with the API that huggingface_hub uses and injectable faults.

The calls: GET /api/models/REPO/revision/REV?blobs=true, then for each file GET /REPO/resolve/COMMIT/PATH, with a Range if
a partial download exists. Other paths are served from `files`, as by a plain web server.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from daemon.demo.loopback import LoopbackServer, QuietHandler

COMMIT = "c0ffee" + "0" * 34
LARGE_BYTES = 100_000  # files of at least this size are in LFS and have a sha256


@dataclass
class FakeHub:
    repositories: dict[str, dict[str, bytes]]
    files: dict[str, bytes] = field(default_factory=dict)  # served as by a plain web server
    commit: str = COMMIT
    gated: set[str] = field(default_factory=set)  # 403 for users who have not accepted the terms, 401 without a token
    cut_after: int | None = None  # bytes after which a response breaks off
    cuts_left: int = 0
    redirect_to: str = ""  # base URL of the server that the content comes from instead
    wrong_bytes: bool = False  # corrupt content with the right length and the digest of the original
    hold: threading.Event = field(default_factory=threading.Event)  # while unset, a truncated response stays open
    hold_after: int | None = None
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    tokens: set[str] = field(default_factory=set)  # from the Authorization headers
    base_url: str = ""

    def downloads(self) -> Counter[str]:
        """Return how often the content of each file was requested, by name."""
        return Counter(
            path.rsplit("/", 1)[-1]
            for method, path, _ in self.requests
            if method == "GET" and not path.startswith("api/")
        )


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    with LoopbackServer(handler, "hub") as server:
        hub.base_url = server.base_url
        try:
            yield hub
        finally:
            hub.hold.set()


class _Handler(QuietHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)
        if path.startswith("api/models/"):
            repository, _, revision = path.removeprefix("api/models/").partition("/revision/")
            self._describe(repository, revision)
        elif "/resolve/" in path:
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._serve(repository, revision, name, with_body)
        elif path in self.hub.files:
            self._send(self.hub.files[path], {"ETag": '"1"'}, with_body)
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _describe(self, repository: str, revision: str) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound")
        elif revision not in ("main", self.hub.commit):
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        else:
            siblings = [_sibling(name, content) for name, content in files.items()]
            answer = {"id": repository, "sha": self.hub.commit, "siblings": siblings}
            self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _serve(self, repository: str, revision: str, name: str, with_body: bool) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RepoNotFound")
        elif repository in self.hub.gated:
            with_token = self.headers.get("Authorization") is not None
            self._refuse(HTTPStatus.FORBIDDEN if with_token else HTTPStatus.UNAUTHORIZED, "GatedRepo")
        elif revision not in ("main", self.hub.commit) or name not in files:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
        elif self.hub.redirect_to:
            self._send(b"", {"Location": f"{self.hub.redirect_to}/{name}"}, with_body, HTTPStatus.FOUND)
        else:
            content = files[name]
            headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": self.hub.commit}
            self._send(bytes(len(content)) if self.hub.wrong_bytes else content, headers, with_body)

    def _send(
        self, content: bytes, headers: dict[str, str], with_body: bool, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        begin, after = 0, len(content)
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, after = int(first), min(int(last) + 1, after) if last else after
            headers["Content-Range"] = f"bytes {begin}-{after - 1}/{len(content)}"
        self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else status)
        for name, value in {**headers, "Content-Length": str(after - begin)}.items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        body = content[begin:after]
        hub = self.hub
        if hub.hold_after is not None and len(body) > hub.hold_after:
            self.wfile.write(body[: hub.hold_after])
            self.wfile.flush()
            hub.hold.wait()
        elif hub.cut_after is not None and hub.cuts_left and len(body) > hub.cut_after:
            hub.cuts_left -= 1
            self.wfile.write(body[: hub.cut_after])
        else:
            self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sibling(name: str, content: bytes) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    if len(content) >= LARGE_BYTES:
        sibling["lfs"] = {"sha256": _etag(content), "size": len(content), "pointerSize": 130}
    return sibling


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE_BYTES else git_sha1(content)


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
