"""The instance that the daemon runs on: what it is told of its end, and what it tells its Auto Scaling group.

On anything but EC2 nothing is asked and nothing is told.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from daemon.autoscaling import AutoScalingGroup, open_group
from daemon.config import Settings
from daemon.errors import ConfigError
from daemon.imds import Imds, MetadataUnavailable
from daemon.interruption import InterruptionWatch, Kind
from daemon.metrics import Metrics

log = logging.getLogger("transcriptd.host")

# The group takes a moment to come to the hook of an instance that asked for its own end.
TERMINATION_ROUNDS = 12
TERMINATION_PAUSE_SECONDS = 5.0


class Host:
    """What the launcher needs of the instance. `group` and `watch` are None where there are none."""

    def __init__(self, settings: Settings, group: AutoScalingGroup | None, watch: InterruptionWatch | None) -> None:
        self._settings = settings
        self._group = group
        self._watch = watch

    @property
    def can_retire(self) -> bool:
        """Whether an idle instance may end itself."""
        return self._group is not None and self._settings.idle_exit_seconds > 0

    async def interrupted(self) -> None:
        """Return when the instance is about to be taken away, or never."""
        await (self._watch.noticed if self._watch else asyncio.Event()).wait()

    async def last_moment(self) -> None:
        """Return when what cannot finish must be given back, or never."""
        await (self._watch.last_moment() if self._watch else asyncio.Event().wait())

    async def ready(self) -> None:
        """The models are loaded on a device that works: the group may count on the instance."""
        if self._group and self._settings.launch_hook:
            await self._group.complete(self._settings.launch_hook, "CONTINUE")

    async def unfit(self, *, was_ready: bool) -> None:
        """The devices or the models do not work here: let the group try another instance."""
        if self._group is None:
            return
        if not was_ready and self._settings.launch_hook:
            await self._group.complete(self._settings.launch_hook, "ABANDON")
        else:
            await self._group.report_unhealthy()

    async def retire(self) -> bool:
        """End this idle instance, one fewer wanted. False if the group wants no fewer."""
        return self._group is not None and await self._group.terminate_self(shrink=True)

    async def keep_hook(self) -> None:
        """Once the group ends this instance, keep its hook alive, until cancelled."""
        if self._group and self._watch and self._settings.termination_hook:
            await self._watch.wait_for(Kind.TERMINATION)
            await self._group.heartbeat(self._settings.termination_hook, self._settings.hook_heartbeat_seconds)

    async def leave(self) -> None:
        """Nothing is in hand any more: hurry the end that was noticed, or asked for by `retire`."""
        if self._group is None or self._watch is None:
            return
        if Kind.SPOT in self._watch.notices:
            return  # it ends by itself, in seconds
        if self._watch.notices.keys() == {Kind.REBALANCE}:
            # The group does not take an instance that is protected from scale-in: without this it would stay, idle.
            await self._group.terminate_self(shrink=False)
        if self._settings.termination_hook:
            for _ in range(TERMINATION_ROUNDS):
                if await self._group.complete(self._settings.termination_hook, "CONTINUE"):
                    return
                await asyncio.sleep(TERMINATION_PAUSE_SECONDS)


@asynccontextmanager
async def open_host(settings: Settings, metrics: Metrics) -> AsyncIterator[Host]:
    """Raises ConfigError when the instance's id is needed and its metadata does not answer."""
    if settings.host == "none":
        yield Host(settings, None, None)
        return
    async with AsyncExitStack() as stack:
        imds = await stack.enter_async_context(Imds(settings.imds_url))
        watch = InterruptionWatch(imds, metrics, settings.interruption_poll_seconds)
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
                    "instance metadata has no instance-id: this is no EC2 instance; set TRANSCRIPTD_HOST=none"
                )
            group = await stack.enter_async_context(open_group(settings.autoscaling_group, instance_id))
        host = Host(settings, group, watch)
        tasks = [asyncio.create_task(watch.run(), name="interruption watch"), asyncio.create_task(host.keep_hook())]
        try:
            yield host
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
