"""What an instance says to its Auto Scaling group: the only module that calls that service.

https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_delay, wait_random_exponential

from daemon.outage import Outage

if TYPE_CHECKING:
    from types_aiobotocore_autoscaling import AutoScalingClient

log = logging.getLogger("transcriptd.autoscaling")

RETRY_SECONDS = 45.0  # a hook that nobody completes costs its whole timeout


class _Unavailable(Exception):
    """Worth another try."""


class AutoScalingGroup:
    """One instance's group. No call raises: the answer says whether it worked, the log why not."""

    def __init__(self, client: "AutoScalingClient", group: str, instance_id: str) -> None:
        self._client = client
        self._group = group
        self._instance_id = instance_id
        self._outage = Outage(log, "Auto Scaling unavailable", "Auto Scaling available again", level=logging.ERROR)

    async def complete(self, hook: str, result: Literal["CONTINUE", "ABANDON"]) -> bool:
        """Complete a lifecycle hook; False also when the group waits for none, as after a restart of the daemon."""
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
        """Keep a hook from timing out, for as long as this is not cancelled."""
        while True:
            await self._call(
                "RecordLifecycleActionHeartbeat",
                lambda: self._client.record_lifecycle_action_heartbeat(
                    LifecycleHookName=hook, AutoScalingGroupName=self._group, InstanceId=self._instance_id
                ),
                logging.DEBUG,  # every minute of a drain
            )
            await asyncio.sleep(period_seconds)

    async def terminate_self(self, *, shrink: bool) -> bool:
        """Have the group end this instance; with `shrink` it wants one fewer. Refused below the group's minimum."""
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

    async def _call(self, name: str, call: Callable[[], Awaitable[Any]], level: int = logging.INFO) -> bool:
        async def attempt() -> None:
            try:
                await call()
            except ClientError as error:
                if error.response["Error"]["Code"] in ("ValidationError", "ResourceContention"):
                    raise  # refused: there is no such action, or the group would fall below its minimum
                raise _Unavailable(str(error)) from error
            except (BotoCoreError, OSError, TimeoutError) as error:
                raise _Unavailable(str(error) or type(error).__name__) from error

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Unavailable),
            stop=stop_after_delay(RETRY_SECONDS),
            wait=wait_random_exponential(multiplier=0.5, max=10),
        )
        try:
            await retrying(attempt)
        except ClientError as error:
            self._outage.worked()
            log.log(level, "refused by the Auto Scaling group", extra={"call": name, "error": str(error)})
            return False
        except RetryError as error:
            self._outage.failed(f"{name}: {error.last_attempt.exception()}")
            return False
        self._outage.worked()
        log.log(level, "told the Auto Scaling group", extra={"call": name})
        return True


@asynccontextmanager
async def open_group(group: str, instance_id: str) -> AsyncIterator[AutoScalingGroup]:
    config = AioConfig(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 1})
    async with aioboto3.Session().client("autoscaling", config=config) as client:
        yield AutoScalingGroup(client, group, instance_id)


async def find_group(group: str) -> list[str] | None:
    """The ids of the group's instances; None if there is no such group. Raises BotoCoreError or ClientError."""
    config = AioConfig(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
    async with aioboto3.Session().client("autoscaling", config=config) as client:
        found = (await client.describe_auto_scaling_groups(AutoScalingGroupNames=[group]))["AutoScalingGroups"]
    return [instance["InstanceId"] for instance in found[0].get("Instances", [])] if found else None
