"""How often the runner process sends a job's events, and which ones it drops."""

import socket
from collections.abc import Iterator

import pytest

from daemon.errors import Interrupted
from daemon.pipeline.__main__ import ALIVE_PERIOD_SECONDS, PROGRESS_PERIOD_SECONDS, Channel, JobReporter
from daemon.protocol.events import (
    BackgroundProgress,
    CheckpointSaved,
    ChunksFiltered,
    JobWaiting,
    PipelineEvent,
    Progress,
    StageDone,
)
from daemon.protocol.messages import JobEvent, decode
from tests.support.time.virtual import VirtualTime


class Poller:
    """The poller's end of the socket pair."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self.clock = VirtualTime()
        self.reporter = JobReporter("job", Channel(theirs), self.clock)

    def after(self, seconds: float, *events: PipelineEvent) -> list[PipelineEvent]:
        """Return what arrives when these events are emitted after the given time."""
        self.clock.now += seconds
        for event in events:
            self.reporter.emit(event)
        self._ours.setblocking(False)
        try:
            lines = self._ours.recv(65536).splitlines()
        except BlockingIOError:
            return []
        messages = [decode(line) for line in lines]
        assert all(isinstance(message, JobEvent) and message.job_id == "job" for message in messages)
        return [message.event for message in messages if isinstance(message, JobEvent)]

    def close(self) -> None:
        self._ours.close()


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


def test_progress_is_throttled_except_at_the_end_of_a_stage(poller: Poller) -> None:
    assert poller.after(0, Progress("asr", 0.1)) == [Progress("asr", 0.1)]
    assert poller.after(PROGRESS_PERIOD_SECONDS / 2, Progress("asr", 0.2)) == []
    assert poller.after(PROGRESS_PERIOD_SECONDS / 4, Progress("asr", 1.0)) == [Progress("asr", 1.0)]
    assert poller.after(PROGRESS_PERIOD_SECONDS, Progress("align", 0.3)) == [Progress("align", 0.3)]


def test_background_progress_is_throttled_by_itself(poller: Poller) -> None:
    assert poller.after(0, Progress("asr", 0.1)) == [Progress("asr", 0.1)]
    assert poller.after(0, BackgroundProgress("diarize", 0.1)) == [BackgroundProgress("diarize", 0.1)]
    assert poller.after(PROGRESS_PERIOD_SECONDS / 2, BackgroundProgress("diarize", 0.2)) == []
    assert poller.after(PROGRESS_PERIOD_SECONDS / 2, Progress("asr", 0.2)) == [Progress("asr", 0.2)]
    assert poller.after(0, BackgroundProgress("diarize", 1.5)) == [BackgroundProgress("diarize", 1.0)]


def test_fractions_are_clamped(poller: Poller) -> None:
    assert poller.after(0, Progress("asr", -0.1)) == [Progress("asr", 0.0)]
    assert poller.after(0, Progress("asr", 1.5)) == [Progress("asr", 1.0)]


def test_waiting_job_sends_heartbeats_once_it_has_started(poller: Poller) -> None:
    assert poller.after(100, JobWaiting()) == []
    assert poller.after(0, Progress("vad", 0.0)) == [Progress("vad", 0.0)]
    assert poller.after(ALIVE_PERIOD_SECONDS / 2, JobWaiting()) == []
    assert poller.after(ALIVE_PERIOD_SECONDS, JobWaiting()) == [JobWaiting()]


def test_other_events_are_sent_at_once(poller: Poller) -> None:
    events: list[PipelineEvent] = [ChunksFiltered(4, 1, 0), StageDone("asr", 1.0), CheckpointSaved("asr-00000.json")]
    assert poller.after(0, *events) == events
    assert poller.after(0, *events) == events


def test_cancelled_job_ends_at_its_next_check(poller: Poller) -> None:
    poller.reporter.check_cancelled()
    poller.reporter.cancel()
    with pytest.raises(Interrupted):
        poller.reporter.check_cancelled()


def test_the_channel_ends_when_the_poller_is_killed_with_unread_messages() -> None:
    """The kernel then reports a reset connection, which a chaos run of 10,000 jobs met once."""
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    channel.send(JobEvent("job", StageDone("vad", 1.0)))
    ours.close()
    assert channel.receive_line() == b""
