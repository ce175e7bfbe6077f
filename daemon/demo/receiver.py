"""A webhook receiver for the demo, written as a customer would write one: verify the signature, then use the event."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from daemon.demo.loopback import LoopbackServer, QuietHandler


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """A received webhook, and whether its signature is valid."""

    event: dict[str, Any]
    verified: bool
    id: str | None = None  # the header webhook-id


class WebhookReceiver(LoopbackServer):
    """Listens on a free loopback port and passes each event to `on_event`. Use as a context manager."""

    def __init__(self, secret: str, on_event: Callable[[SeenEvent], None]) -> None:
        verifier = Webhook(secret)

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    verifier.verify(body, dict(self.headers))
                except (WebhookVerificationError, ValueError):  # ValueError: a signature that is not base64
                    verified = False
                else:
                    verified = True
                self.send_response(204 if verified else 401)
                self.end_headers()
                on_event(SeenEvent(json.loads(body), verified, self.headers["webhook-id"]))

        super().__init__(Handler, "webhook receiver")

    @property
    def url(self) -> str:
        return self.base_url + "/hooks/transcripts"
