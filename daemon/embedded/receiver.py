"""A webhook receiver for the demo, written as a customer would write one: check the signature, then believe the event."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from daemon.embedded.loopback import LoopbackServer, QuietHandler


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """A request that arrived: its event, and whether the signature proves the sender."""

    event: dict[str, Any]
    verified: bool


class WebhookReceiver(LoopbackServer):
    """`with WebhookReceiver(secret, on_event) as receiver:` listens on a free loopback port."""

    def __init__(self, secret: str, on_event: Callable[[SeenEvent], None]) -> None:
        verifier = Webhook(secret)

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    verifier.verify(body, dict(self.headers))
                except WebhookVerificationError:
                    verified = False
                else:
                    verified = True
                self.send_response(204 if verified else 401)
                self.end_headers()
                on_event(SeenEvent(json.loads(body), verified))

        super().__init__(Handler, "webhook receiver")

    @property
    def url(self) -> str:
        return self.base_url + "/hooks/transcripts"
