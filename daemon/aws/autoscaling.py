"""Calls to the instance's Auto Scaling group. Only this module uses that service.

https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_random_exponential

from daemon.aws.session import open_session
from daemon.telemetry.outage import Outage
from daemon.telemetry.redaction import describe

if TYPE_CHECKING:
    from types_aiobotocore_autoscaling import AutoScalingClient

log = logging.getLogger("transcriptd.autoscaling")

RETRY_SECONDS = 45.0  # worth retrying: an uncompleted hook delays the group by the hook's whole timeout


class _Unavailable(Exception):
    """The call may succeed if retried."""


class AutoScalingGroup:
    """The group of one instance. No call raises: each returns whether it succeeded, and logs the reason if not."""

    def __init__(self, client: "AutoScalingClient", group: str, instance_id: str) -> None:
        self._client = client
        self._group = group
        self._instance_id = instance_id
        self._outage = Outage(log, "Auto Scaling unavailable", "Auto Scaling available again", level=logging.ERROR)
        self._completed_hooks: set[str] = set()
        self._heartbeat_in_flight = asyncio.Lock()

    async def complete(self, hook: str, result: Literal["CONTINUE", "ABANDON"]) -> bool:
        """Complete a lifecycle hook. Also returns False if the group waits for none, as after a restart of the daemon.

        Sends no further heartbeats of the hook, and first waits for one in flight: after the completion, the service would
        reject a heartbeat or, worse, extend the completed hook.
        """
        self._completed_hooks.add(hook)
        async with self._heartbeat_in_flight:
            return await self._call(
                "CompleteLifecycleAction",
                lambda: self._client.complete_lifecycle_action(
                    LifecycleHookName=hook,
                    AutoScalingGroupName=self._group,
                    InstanceId=self._instance_id,
                    LifecycleActionResult=result,
                ),
            )

    async def heartbeat(self, hook: str, period_seconds: float) -> None:
        """Send heartbeats, so that the hook does not time out, until it is completed or this task is cancelled."""
        while hook not in self._completed_hooks:
            async with self._heartbeat_in_flight:
                await self._call(
                    "RecordLifecycleActionHeartbeat",
                    lambda: self._client.record_lifecycle_action_heartbeat(
                        LifecycleHookName=hook, AutoScalingGroupName=self._group, InstanceId=self._instance_id
                    ),
                    level=logging.DEBUG,  # sent every minute of a drain
                    retry_seconds=0,  # the next heartbeat is the retry; a completion never waits for several attempts
                )
            await asyncio.sleep(period_seconds)

    async def terminate_self(self, *, shrink: bool) -> bool:
        """Have the group terminate this instance; `shrink` also lowers its desired capacity, but not below its minimum."""
        return await self._call(
            "TerminateInstanceInAutoScalingGroup",
            lambda: self._client.terminate_instance_in_auto_scaling_group(
                InstanceId=self._instance_id, ShouldDecrementDesiredCapacity=shrink
            ),
        )

    async def report_unhealthy(self) -> bool:
        """Have the group replace this instance."""
        return await self._call(
            "SetInstanceHealth",
            lambda: self._client.set_instance_health(
                InstanceId=self._instance_id, HealthStatus="Unhealthy", ShouldRespectGracePeriod=False
            ),
        )

    async def _call(
        self,
        name: str,
        call: Callable[[], Awaitable[Any]],
        *,
        level: int = logging.INFO,
        retry_seconds: float = RETRY_SECONDS,
    ) -> bool:
        async def attempt() -> None:
            try:
                await call()
            except ClientError as error:
                if error.response["Error"]["Code"] in ("ValidationError", "ResourceContention"):
                    raise  # rejected: no such lifecycle action, or the group is at its minimum
                raise _Unavailable(str(error)) from error
            except (BotoCoreError, OSError, TimeoutError) as error:
                raise _Unavailable(describe(error)) from error

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Unavailable),
            stop=stop_after_delay(retry_seconds),
            wait=wait_random_exponential(multiplier=0.5, max=10),
        )
        try:
            await retrying(attempt)
        except ClientError as error:
            self._outage.worked()
            log.log(level, "Auto Scaling rejected the call", extra={"call": name, "error": str(error)})
            return False
        except RetryError as error:
            self._outage.failed(f"{name}: {error.last_attempt.exception()}")
            return False
        self._outage.worked()
        log.log(level, "Auto Scaling call succeeded", extra={"call": name})
        return True


@asynccontextmanager
async def open_group(group: str, instance_id: str) -> AsyncIterator[AutoScalingGroup]:
    config = AioConfig(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 1})
    async with (await open_session()).client("autoscaling", config=config) as client:
        yield AutoScalingGroup(client, group, instance_id)


async def find_group(group: str) -> list[str] | None:
    """Return the IDs of the group's instances, or None if the group does not exist. Raises BotoCoreError or ClientError."""
    config = AioConfig(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
    async with (await open_session()).client("autoscaling", config=config) as client:
        found = (await client.describe_auto_scaling_groups(AutoScalingGroupNames=[group]))["AutoScalingGroups"]
    return [instance["InstanceId"] for instance in found[0].get("Instances", [])] if found else None
