"""The instance that the daemon runs on: its interruption notices, and the calls to its Auto Scaling group.

Outside EC2, this does nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from daemon.aws.autoscaling import AutoScalingGroup, open_group
from daemon.aws.imds import Imds, MetadataUnavailable
from daemon.aws.interruption import InterruptionKind, InterruptionMonitor
from daemon.config import Settings
from daemon.errors import ConfigError
from daemon.telemetry.metrics import Metrics

log = logging.getLogger("transcriptd.host")

# After an instance requests its own termination, it takes a while until the group waits at the hook.
TERMINATION_ROUNDS = 12
TERMINATION_PAUSE_SECONDS = 5.0


class Host:
    """The launcher's interface to the instance. `group` and `watch` are None if there are none."""

    def __init__(self, settings: Settings, group: AutoScalingGroup | None, watch: InterruptionMonitor | None) -> None:
        self._settings = settings
        self._group = group
        self._watch = watch

    @property
    def can_retire(self) -> bool:
        """Whether an idle instance may request its own termination."""
        return self._group is not None and self._settings.idle_exit_seconds > 0

    async def watch(self) -> None:
        """Poll for notices until cancelled. `interrupted`, `release_deadline` and `keep_termination_hook` depend on it."""
        await (self._watch.run() if self._watch else asyncio.Event().wait())

    @property
    def is_interrupted(self) -> bool:
        """Whether the instance is about to be interrupted or terminated."""
        return self._watch is not None and self._watch.noticed.is_set()

    async def interrupted(self) -> None:
        """Wait until the instance is about to be interrupted or terminated."""
        await (self._watch.noticed if self._watch else asyncio.Event()).wait()

    async def release_deadline(self) -> None:
        """Wait until unfinished jobs must be released."""
        await (self._watch.release_deadline() if self._watch else asyncio.Event().wait())

    async def ready(self) -> None:
        """Complete the launch hook: the models are loaded, and the instance is in service."""
        if self._group and self._settings.launch_hook:
            await self._group.complete(self._settings.launch_hook, "CONTINUE")

    async def report_unfit(self, *, was_ready: bool) -> None:
        """Have the group replace this instance: its devices or models do not work."""
        if self._group is None:
            return
        if not was_ready and self._settings.launch_hook:
            await self._group.complete(self._settings.launch_hook, "ABANDON")
        else:
            await self._group.report_unhealthy()

    async def retire(self) -> bool:
        """Terminate this idle instance and lower the desired capacity. False if the group is at its minimum."""
        return self._group is not None and await self._group.terminate_self(shrink=True)

    async def keep_termination_hook(self) -> None:
        """Once the group terminates this instance, extend the termination hook until cancelled."""
        if self._group and self._watch and self._settings.termination_hook:
            await self._watch.wait_for(InterruptionKind.TERMINATION)
            await self._group.heartbeat(self._settings.termination_hook, self._settings.hook_heartbeat_seconds)

    async def complete_termination(self) -> None:
        """Complete a termination by the group or by `retire`. Call when no job is left."""
        if self._group is None or self._watch is None:
            return
        if InterruptionKind.SPOT in self._watch.notices:
            return  # EC2 terminates it within seconds
        if self._watch.notices.keys() == {InterruptionKind.REBALANCE}:
            # The group does not replace an instance with scale-in protection: without this call it would stay idle.
            await self._group.terminate_self(shrink=False)
        if self._settings.termination_hook:
            for _ in range(TERMINATION_ROUNDS):
                if await self._group.complete(self._settings.termination_hook, "CONTINUE"):
                    return
                await asyncio.sleep(TERMINATION_PAUSE_SECONDS)


@asynccontextmanager
async def open_host(settings: Settings, metrics: Metrics) -> AsyncIterator[Host]:
    """Open the host. Raises ConfigError if the instance ID is needed and the metadata service does not respond."""
    if settings.host == "none":
        yield Host(settings, None, None)
        return
    async with AsyncExitStack() as stack:
        imds = await stack.enter_async_context(Imds(settings.imds_url))
        watch = InterruptionMonitor(imds, metrics, settings.interruption_poll_seconds)
        group = None
        if settings.autoscaling_group:
            try:
                instance_id = await imds.get("instance-id")
            except MetadataUnavailable as error:
                raise ConfigError(
                    f"TRANSCRIPTD_HOST=ec2, but {error}; on other machines set TRANSCRIPTD_HOST=none"
                ) from error
            if instance_id is None:
                raise ConfigError(
                    "instance metadata has no instance-id: this is not an EC2 instance; set TRANSCRIPTD_HOST=none"
                )
            group = await stack.enter_async_context(open_group(settings.autoscaling_group, instance_id))
        yield Host(settings, group, watch)
