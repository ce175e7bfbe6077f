"""Many together, or one alone."""

import asyncio

import pytest

from daemon.admission import Admission


class Guest:
    """Is inside until it may leave."""

    def __init__(self, admission: Admission, *, alone: bool = False) -> None:
        self.inside = False
        self.may_leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(admission, alone))

    async def _visit(self, admission: Admission, alone: bool) -> None:
        async with admission.enter(alone=alone):
            self.inside = True
            await self.may_leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self.may_leave.set()
        await self.task
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_alone_waits_for_the_others_and_holds_up_those_who_come_later() -> None:
    admission = Admission()
    first, second = Guest(admission), Guest(admission)
    await settle()
    alone, later = Guest(admission, alone=True), Guest(admission)
    await settle()
    assert (first.inside, second.inside, alone.inside, later.inside) == (True, True, False, False)
    await first.leave()
    assert not alone.inside
    await second.leave()
    assert (alone.inside, later.inside) == (True, False)
    await alone.leave()
    assert later.inside
    await later.leave()


async def test_two_alone_come_one_after_the_other() -> None:
    admission = Admission()
    one, two = Guest(admission, alone=True), Guest(admission, alone=True)
    await settle()
    assert (one.inside, two.inside) == (True, False)
    await one.leave()
    assert two.inside
    await two.leave()


@pytest.mark.parametrize("waits", [True, False], ids=["while it waits", "inside"])
async def test_one_who_is_cancelled_holds_nobody_up(waits: bool) -> None:
    admission = Admission()
    inside = Guest(admission)
    await settle()
    alone = Guest(admission, alone=True)
    if not waits:
        await inside.leave()
    await settle()
    assert alone.inside is not waits
    alone.task.cancel()
    await settle()
    later = Guest(admission)
    await settle()
    assert later.inside
