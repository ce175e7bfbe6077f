"""Deletes the messages of running jobs, as SQS does at the end of their retention period."""

from tests.chaos.site import Site
from tests.chaos.suspects import Expiry


class Expiries:
    """`add(job_id)`, then `tend()` several times per second."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._waiting: set[str] = set()
        self.done: list[Expiry] = []

    def add(self, job_id: str) -> None:
        self._waiting.add(job_id)

    def tend(self) -> None:
        """Delete the messages of the jobs that have started since the last call."""
        for job_id in sorted(self._waiting & self._site.started):
            receipt = self._site.proxy.traffic.receipts.get(job_id)
            if receipt is None:
                continue  # unreachable unless the proxy missed an answer; the job then completes
            self._waiting.discard(job_id)
            self._site.delete(receipt.handle)
            self.done.append(Expiry(job_id, receipt.caller, receipt.handle, receipt.at))

    @property
    def running(self) -> bool:
        """Whether the job of a deleted message has no final event yet. It may never have one."""
        return any(expiry.job_id not in self._site.ended for expiry in self.done)
