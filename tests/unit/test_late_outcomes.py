"""Outcomes that S3 did not store are stored later."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from daemon.errors import OutputRefused, StorageUnavailable
from daemon.jobs import late_outcomes as module
from daemon.jobs.late_outcomes import MAX_TRIES, LateOutcomes


class Bucket:
    """Stores outcomes by name, unless it is down or refuses the name."""

    def __init__(self) -> None:
        self.down = True
        self.refused: set[str] = set()
        self.stored: list[str] = []
        self.calls = 0
        self.wanted = 0
        self.called = asyncio.Event()

    async def store(self, name: str) -> None:
        self.calls += 1
        if self.calls >= self.wanted:
            self.called.set()
        if name in self.refused:
            raise OutputRefused(name)
        if self.down:
            raise StorageUnavailable(name)
        self.stored.append(name)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
async def late(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LateOutcomes]:
    monkeypatch.setattr(module, "PAUSE_BASE_SECONDS", 0.001)
    monkeypatch.setattr(module, "PAUSE_MAX_SECONDS", 0.01)
    late = LateOutcomes()
    running = asyncio.create_task(late.run())
    yield late
    assert not running.done()
    running.cancel()


async def until_called(bucket: Bucket, times: int) -> None:
    bucket.wanted = times
    if bucket.calls < times:
        bucket.called.clear()
        await bucket.called.wait()


async def test_outcomes_are_recorded_once_s3_works_again(bucket: Bucket, late: LateOutcomes) -> None:
    for name in ("a", "b"):
        late.add(name, lambda name=name: bucket.store(name))  # type: ignore[misc]
    await until_called(bucket, 5)
    assert bucket.stored == []
    bucket.down = False
    await until_called(bucket, bucket.calls + 2)
    await asyncio.sleep(0.05)
    assert sorted(bucket.stored) == ["a", "b"], "each of them once"


async def test_refused_outcome_does_not_hold_up_the_others_and_is_given_up(bucket: Bucket, late: LateOutcomes) -> None:
    bucket.down, bucket.refused = False, {"refused"}
    for name in ("refused", "a"):
        late.add(name, lambda name=name: bucket.store(name))  # type: ignore[misc]
    await until_called(bucket, 1 + MAX_TRIES)
    assert bucket.stored == ["a"]
    await asyncio.sleep(0.05)
    assert bucket.calls == 1 + MAX_TRIES


async def test_job_is_judged_only_after_its_outcomes_are_recorded(bucket: Bucket) -> None:
    late = LateOutcomes()  # not running
    late.add("job", lambda: bucket.store("first"))
    late.add("other", lambda: bucket.store("other"))
    with pytest.raises(StorageUnavailable):
        await late.record("job")
    bucket.down = False
    await late.record("job")
    await late.record("job")
    assert bucket.stored == ["first"]
