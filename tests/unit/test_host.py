"""What an instance reports to its Auto Scaling group, depending on its state."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from daemon.aws.autoscaling import AutoScalingGroup
from daemon.aws.instance import TERMINATION_ROUNDS, Host
from daemon.aws.interruption import InterruptionKind, InterruptionMonitor
from daemon.config import Settings
from tests.support.time.virtual import in_virtual_time, virtual_loop

MakeSettings = Callable[..., Settings]


class Group:
    """An Auto Scaling group that records its calls; a hook exists after a number of attempts."""

    def __init__(self, hook_after: int = 1) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._hook_after = hook_after

    async def complete(self, hook: str, result: str) -> bool:
        self.calls.append(("complete", hook, result))
        return self.calls.count(("complete", hook, result)) >= self._hook_after

    async def report_unhealthy(self) -> None:
        self.calls.append(("unhealthy",))

    async def terminate_self(self, *, shrink: bool) -> bool:
        self.calls.append(("terminate", shrink))
        return True


class Notices:
    def __init__(self, *kinds: InterruptionKind) -> None:
        self.notices = dict.fromkeys(kinds, 0.0)


def host_of(make_settings: MakeSettings, group: Group | None, *kinds: InterruptionKind, **settings: Any) -> Host:
    values = {"host": "ec2", "autoscaling_group": "g", "launch_hook": "launch", "termination_hook": "end", **settings}
    return Host(make_settings(**values), cast(AutoScalingGroup, group), cast(InterruptionMonitor, Notices(*kinds)))


async def test_group_gets_an_instance_that_is_ready(make_settings: MakeSettings) -> None:
    group = Group()
    await host_of(make_settings, group).ready()
    assert group.calls == [("complete", "launch", "CONTINUE")]


@pytest.mark.parametrize(
    ("was_ready", "hook", "call"),
    [
        (False, "launch", ("complete", "launch", "ABANDON")),
        (False, None, ("unhealthy",)),
        (True, "launch", ("unhealthy",)),
    ],
)
async def test_instance_that_cannot_work_is_replaced(
    make_settings: MakeSettings, was_ready: bool, hook: str | None, call: tuple[str, ...]
) -> None:
    group = Group()
    await host_of(make_settings, group, launch_hook=hook).report_unfit(was_ready=was_ready)
    assert group.calls == [call]


@pytest.mark.parametrize(
    ("kinds", "calls"),
    [
        ((InterruptionKind.SPOT,), []),
        ((InterruptionKind.SPOT, InterruptionKind.TERMINATION), []),
        ((InterruptionKind.TERMINATION,), [("complete", "end", "CONTINUE")]),
        ((InterruptionKind.REBALANCE,), [("terminate", False), ("complete", "end", "CONTINUE")]),
        ((InterruptionKind.REBALANCE, InterruptionKind.TERMINATION), [("complete", "end", "CONTINUE")]),
        ((), [("complete", "end", "CONTINUE")]),
    ],
)
async def test_announced_termination_is_completed_early_when_idle(
    make_settings: MakeSettings, kinds: tuple[InterruptionKind, ...], calls: list[tuple[Any, ...]]
) -> None:
    group = Group()
    await host_of(make_settings, group, *kinds).complete_termination()
    assert group.calls == calls


@pytest.mark.parametrize(("hook_after", "tries"), [(3, 3), (99, TERMINATION_ROUNDS)])
@in_virtual_time
async def test_hook_is_retried_until_it_exists(make_settings: MakeSettings, hook_after: int, tries: int) -> None:
    group, began_at = Group(hook_after), virtual_loop().time()
    await host_of(make_settings, group, InterruptionKind.TERMINATION).complete_termination()
    assert len(group.calls) == tries
    assert virtual_loop().time() > began_at


async def test_only_an_instance_of_a_group_may_terminate_itself(make_settings: MakeSettings) -> None:
    group = Group()
    assert host_of(make_settings, group, idle_exit_seconds=600).can_retire
    assert not host_of(make_settings, group).can_retire
    alone = Host(make_settings(), None, None)
    assert not alone.can_retire
    assert not await alone.retire()
    await alone.report_unfit(was_ready=True)
    await alone.complete_termination()
    assert await host_of(make_settings, group).retire()
    assert group.calls == [("terminate", True)]
