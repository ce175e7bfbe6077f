"""The EC2 instance and its Auto Scaling group."""

from collections.abc import AsyncGenerator

from daemon.aws.autoscaling import find_group
from daemon.aws.imds import Imds, MetadataUnavailable
from daemon.cli.check.aws import calling
from daemon.cli.check.registry import CheckResult, check, failed, passed, skipped, warned
from daemon.config import Settings


@check(
    "host",
    "with TRANSCRIPTD_HOST=ec2: the instance metadata service (IMDSv2) responds; the Auto Scaling group exists and contains the instance. Calls that change the group are not tested",
    actions="`autoscaling:DescribeAutoScalingGroups`",
)
async def host(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    if settings.host != "ec2":
        yield skipped("TRANSCRIPTD_HOST is none", "Set TRANSCRIPTD_HOST=ec2 on instances.")
        return
    try:
        async with Imds(settings.imds_url) as imds:
            instance_id = await imds.get("instance-id")
    except MetadataUnavailable as error:
        yield failed(
            str(error),
            "Enable the instance metadata service, with a hop limit of 2 in a container; outside EC2 set TRANSCRIPTD_HOST=none.",
        )
        return
    if instance_id is None:
        yield failed("the metadata has no instance-id: this is not an EC2 instance", "Set TRANSCRIPTD_HOST=none.")
        return
    yield passed(f"instance {instance_id}")
    if settings.autoscaling_group is None:
        return
    name = f"Auto Scaling group {settings.autoscaling_group}"
    with calling("autoscaling:DescribeAutoScalingGroups", name):
        members = await find_group(settings.autoscaling_group)
    if members is None:
        yield failed(f"{name} does not exist in this region", "Correct TRANSCRIPTD_AUTOSCALING_GROUP or AWS_REGION.")
    elif instance_id not in members:
        yield warned(
            f"{name} has {len(members)} instances, but not this one", "Attach this instance, or launch a new one."
        )
    else:
        yield passed(f"{name}, {len(members)} instances")
