"""How the demo judges metrics and webhook signatures. The demo itself runs in tests/acceptance/test_main_job.py."""

import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from rich.console import Console

from bench.waiting import wait_for
from daemon.demo import command as demo
from daemon.demo.receiver import SeenEvent, WebhookReceiver

PUBLISHED = 'transcriptd_deliveries_total{outcome="published",reason="published"}'
DEAD_LETTERED = 'transcriptd_deliveries_total{outcome="dead_lettered",reason="no_audio_stream"}'


class Daemon:
    """A server that answers each GET of /metrics with the next page and repeats the last one."""

    def __init__(self, *pages: str) -> None:
        self.pages = list(pages)

    def get(self, path: str) -> str:
        assert path == "/metrics"
        return "# TYPE transcriptd_deliveries_total counter\n" + (
            self.pages.pop(0) if self.pages[1:] else self.pages[0]
        )


def problems(*pages: str) -> list[str]:
    daemon: Any = Daemon(*pages)
    return demo._show_metrics(Console(quiet=True), daemon)


def test_demo_waits_for_a_job_counted_after_its_webhook() -> None:
    """Regression: in CI the last `job.completed` arrived 33 ms before its job was counted, and the demo reported a
    failure."""
    early = f"{DEAD_LETTERED} 1.0\n{PUBLISHED} 1.0\n"
    assert problems("", early, early, f"{DEAD_LETTERED} 1.0\n{PUBLISHED} 2.0\n") == []


def test_job_that_is_never_counted_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COUNT_TIMEOUT_SECONDS", 0.3)
    (problem,) = problems(f"{DEAD_LETTERED} 1.0\n{PUBLISHED} 1.0\n")
    assert "expected the delivery counts" in problem


def test_counting_too_often_is_a_problem_at_once() -> None:
    (problem,) = problems(f"{DEAD_LETTERED} 1.0\n{PUBLISHED} 3.0\n")
    assert "('published', 'published'): 3.0" in problem


@pytest.mark.parametrize("signature", ["v1,x", "v1", "v1,c2lnbmF0dXJl"], ids=["not base64", "no comma", "another"])
def test_a_wrong_signature_is_answered_with_401(signature: str) -> None:
    seen: list[SeenEvent] = []
    headers = {"webhook-id": "e", "webhook-timestamp": str(int(time.time())), "webhook-signature": signature}
    with WebhookReceiver("whsec_c2VjcmV0", seen.append) as receiver:
        request = urllib.request.Request(receiver.url, b'{"type": "job.completed"}', headers, method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        wait_for(lambda: bool(seen), "the event is passed on, after the answer")
    assert refused.value.code == 401
    assert seen == [SeenEvent({"type": "job.completed"}, verified=False, id="e")]
