"""The instance and its Auto Scaling group."""

from collections.abc import AsyncGenerator

from daemon.autoscaling import find_group
from daemon.imds import Imds, MetadataUnavailable
from daemon.tools.check.aws import calling
from daemon.tools.check.registry import Context, Finding, check, failed, passed, skipped, warned


@check(
    "host",
    "with TRANSCRIPTD_HOST=ec2: the instance's metadata (IMDSv2) answer; the Auto Scaling group exists and has the instance. What the daemon tells the group is not tried",
    actions="`autoscaling:DescribeAutoScalingGroups`",
)
async def host(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    if settings.host != "ec2":
        yield skipped("TRANSCRIPTD_HOST is none", "Set TRANSCRIPTD_HOST=ec2 on instances.")
        return
    try:
        async with Imds(settings.imds_url) as imds:
            instance_id = await imds.get("instance-id")
    except MetadataUnavailable as error:
        yield failed(
            str(error),
            "Turn the instance's metadata on, with a hop limit of 2 in a container; elsewhere set TRANSCRIPTD_HOST=none.",
        )
        return
    if instance_id is None:
        yield failed("the metadata have no instance-id: this is no EC2 instance", "Set TRANSCRIPTD_HOST=none.")
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
        yield warned(f"{name} has {len(members)} instances, this one not among them", "Attach it, or start a new one.")
    else:
        yield passed(f"{name}, {len(members)} instances")
