"""What the run did to daemons and messages, so that the audit can tell a fault of the product from its cause."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Harm:
    """A daemon was killed, or suspended past its leases."""

    at: float  # monotonic
    caller: str


@dataclass(frozen=True, slots=True)
class Stop:
    """A daemon got SIGTERM, and SIGKILL before it had ended."""

    worker_id: str
    caller: str
    asked_at: float  # monotonic
    asked_at_unix: float
    killed_at: float  # monotonic

    @property
    def grace_seconds(self) -> float:
        return self.killed_at - self.asked_at


@dataclass(frozen=True, slots=True)
class Expiry:
    """The message of a running job was deleted."""

    job_id: str
    caller: str  # the last that received it
    handle: str
    received_at: float  # monotonic
