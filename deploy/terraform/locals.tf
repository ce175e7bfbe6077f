data "aws_partition" "current" {}
data "aws_region" "current" {}
data "aws_caller_identity" "current" {}

locals {
  partition  = data.aws_partition.current.partition
  region     = data.aws_region.current.region
  account_id = data.aws_caller_identity.current.account_id

  tags = merge({ Application = "transcriptd", Deployment = var.name }, var.tags)

  # Build ARNs from names instead of reading them from resources: the plan then shows complete policies, and the launch
  # template does not depend on the group that uses it.
  queue_arns = { for key in keys(local.queues) : key => "arn:${local.partition}:sqs:${local.region}:${local.account_id}:${var.name}-${key}" }
  group_arn  = "arn:${local.partition}:autoscaling:${local.region}:${local.account_id}:autoScalingGroup:*:autoScalingGroupName/${var.name}"

  http_port = 9464

  # Settings derived from var.deadlines.
  deadline_settings = {
    TRANSCRIPTD_VISIBILITY_TIMEOUT_SECONDS = tostring(var.deadlines.visibility)
    TRANSCRIPTD_HEARTBEAT_SECONDS          = tostring(var.deadlines.heartbeat)
    TRANSCRIPTD_DRAIN_TIMEOUT_SECONDS      = tostring(var.deadlines.drain)
  }
}
