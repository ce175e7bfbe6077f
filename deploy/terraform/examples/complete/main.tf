# A fleet in private subnets of a dedicated VPC, with a dedicated key and alarms by mail. Nothing is reachable from the
# internet. Only HTTPS goes out: to VPC endpoints, and through a NAT gateway to webhook receivers.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

# --- Network ----------------------------------------------------------------------------------------------------------

resource "aws_vpc" "this" {
  # checkov:skip=CKV2_AWS_11: flow logs belong to the account, not to an example
  # checkov:skip=CKV2_AWS_12: the default security group is managed below
  cidr_block           = "10.20.0.0/16"
  enable_dns_support   = true
  enable_dns_hostnames = true # required for private DNS of the endpoints
  tags                 = { Name = "transcriptd" }
}

resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id # no rules: unused
}

resource "aws_subnet" "private" {
  count = length(var.zones)

  vpc_id            = aws_vpc.this.id
  availability_zone = var.zones[count.index]
  cidr_block        = cidrsubnet(aws_vpc.this.cidr_block, 4, count.index)
  tags              = { Name = "transcriptd-private-${var.zones[count.index]}" }
}

resource "aws_subnet" "public" {
  vpc_id            = aws_vpc.this.id
  availability_zone = var.zones[0]
  cidr_block        = cidrsubnet(aws_vpc.this.cidr_block, 8, 255)
  tags              = { Name = "transcriptd-nat" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_eip" "nat" {
  # checkov:skip=CKV2_AWS_19: attached to the NAT gateway
  domain = "vpc"
}

resource "aws_nat_gateway" "this" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public.id

  depends_on = [aws_internet_gateway.this]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this.id
  }
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.this.id

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.this.id
  }
}

resource "aws_route_table_association" "private" {
  count = length(var.zones)

  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private.id
}

# --- Key and alarms ---------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "key" {
  # checkov:skip=CKV_AWS_109: in a key policy, * is the key itself
  # checkov:skip=CKV_AWS_111: see CKV_AWS_109
  # checkov:skip=CKV_AWS_356: see CKV_AWS_109

  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root"]
    }
  }

  # Without these two statements no instance starts: Auto Scaling needs the key for the encrypted volume.
  statement {
    sid       = "AutoScalingUsesVolumes"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = [local.autoscaling_role_arn]
    }
  }

  statement {
    sid       = "AutoScalingAttachesVolumes"
    actions   = ["kms:CreateGrant"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = [local.autoscaling_role_arn]
    }

    condition {
      test     = "Bool"
      variable = "kms:GrantIsForAWSResource"
      values   = ["true"]
    }
  }

  statement {
    sid       = "AlarmsPublish"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey*"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com"]
    }
  }
}

locals {
  autoscaling_role_arn = "arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
}

resource "aws_kms_key" "this" {
  description         = "transcriptd: queues, buckets, volumes, alarms"
  enable_key_rotation = true
  policy              = data.aws_iam_policy_document.key.json
}

resource "aws_sns_topic" "alarms" {
  name              = "transcriptd-alarms"
  kms_master_key_id = aws_kms_key.this.id
}

resource "aws_sns_topic_subscription" "alarms" {
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

# --- The fleet --------------------------------------------------------------------------------------------------------

module "transcriptd" {
  source = "../.."

  name        = "transcriptd"
  kms_key_arn = aws_kms_key.this.arn
  tags        = { Environment = "production" }

  vpc_id               = aws_vpc.this.id
  subnet_ids           = aws_subnet.private[*].id
  create_vpc_endpoints = true
  route_table_ids      = [aws_route_table.private.id]
  egress_cidr_blocks   = ["0.0.0.0/0"] # webhook receivers; [] without webhooks

  release_bucket = var.release_bucket
  release_key    = var.release_key
  release_sha256 = var.release_sha256
  secrets        = { WEBHOOK_SECRET = var.webhook_secret_arn }
  environment = {
    WEBHOOK_URL       = var.webhook_url
    TRANSCRIPTD_MODEL = "large-v3-turbo"
  }

  max_size                = 20
  on_demand_base_capacity = 1
  mean_job_seconds        = 120
  acceptable_wait_seconds = 600
  recording_days          = 30

  alarm_topic_arns = [aws_sns_topic.alarms.arn]
}
