# Permissions of an instance: the calls of the daemon and its boot script, each on named resources.

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"] # the same in every partition
    }
  }
}

resource "aws_iam_role" "instance" {
  name_prefix        = "${var.name}-"
  description        = "Instances of the transcriptd fleet ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = local.tags
}

resource "aws_iam_instance_profile" "instance" {
  name_prefix = "${var.name}-"
  role        = aws_iam_role.instance.name
  tags        = local.tags
}

resource "aws_iam_role_policy" "instance" {
  name   = "transcriptd"
  role   = aws_iam_role.instance.id
  policy = data.aws_iam_policy_document.instance.json
}

locals {
  parameter_arns      = [for arn in values(var.secrets) : arn if strcontains(arn, ":ssm:")]
  secret_arns         = [for arn in values(var.secrets) : arn if strcontains(arn, ":secretsmanager:")]
  kms_key_arns        = distinct(concat(var.kms_key_arn == null ? [] : [var.kms_key_arn], var.bucket_kms_key_arns))
  storage_bucket_arns = distinct([for name in concat(local.input_buckets, [local.output_bucket]) : "arn:${local.partition}:s3:::${name}"])
}

data "aws_iam_policy_document" "instance" {
  # checkov:skip=CKV_AWS_356: Describe* of Auto Scaling and Session Manager's channels have no resource level
  # checkov:skip=CKV_AWS_111: the only writes on * are Session Manager's channels and ssm:UpdateInstanceInformation, see CKV_AWS_356

  # --- The daemon: daemon/aws/sqs.py, daemon/webhooks/outbox.py, daemon/webhooks/event_bus.py

  statement {
    sid       = "Jobs"
    actions   = ["sqs:ReceiveMessage", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    resources = [for queue in var.queues : local.queue_arns[queue.name]]
  }

  statement {
    sid       = "DeadLetters"
    actions   = ["sqs:SendMessage", "sqs:GetQueueAttributes"]
    resources = [for queue in var.queues : local.queue_arns["${queue.name}-dlq"]]
  }

  statement {
    sid       = "Outbox"
    actions   = ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    resources = [local.queue_arns["outbox"]]
  }

  dynamic "statement" {
    for_each = var.event_bus_arn == null ? [] : [var.event_bus_arn]

    content {
      sid       = "EventBus"
      actions   = ["events:PutEvents"]
      resources = [statement.value]
    }
  }

  # --- The daemon: daemon/aws/s3.py

  statement {
    sid       = "Recordings"
    actions   = ["s3:GetObject", "s3:GetObjectVersion"]
    resources = [for name in local.input_buckets : "arn:${local.partition}:s3:::${name}/*"]
  }

  statement {
    sid = "Results"
    actions = concat(
      ["s3:GetObject", "s3:PutObject", "s3:PutObjectTagging", "s3:DeleteObject"],
      contains(keys(var.environment), "TRANSCRIPTD_OUTPUT_ACL") ? ["s3:PutObjectAcl"] : [],
    )
    resources = ["arn:${local.partition}:s3:::${local.output_bucket}/${var.output_prefix}*"]
  }

  statement {
    sid       = "Buckets"
    actions   = ["s3:ListBucket"] # for HeadBucket; without it S3 answers 403 for missing objects
    resources = local.storage_bucket_arns
  }

  dynamic "statement" {
    for_each = length(local.kms_key_arns) > 0 ? [1] : []

    content {
      sid       = "Keys"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = local.kms_key_arns

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = [for service in ["s3", "sqs", "ssm", "secretsmanager"] : "${service}.${local.region}.${data.aws_partition.current.dns_suffix}"]
      }
    }
  }

  # --- Lifecycle. The ID inside the group's ARN is unknown before the group exists, so match by name.

  statement {
    sid = "Lifecycle"
    actions = [
      "autoscaling:CompleteLifecycleAction",
      "autoscaling:RecordLifecycleActionHeartbeat",
      "autoscaling:SetInstanceHealth",
      "autoscaling:TerminateInstanceInAutoScalingGroup",
    ]
    resources = [local.group_arn]
  }

  statement {
    sid       = "LifecycleRead"
    actions   = ["autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances"]
    resources = ["*"] # no resource level
  }

  # --- Boot

  statement {
    sid       = "Release"
    actions   = ["s3:GetObject"]
    resources = ["arn:${local.partition}:s3:::${var.release_bucket}/${var.release_key}"]
  }

  dynamic "statement" {
    for_each = startswith(var.models_from, "s3://") ? [1] : []

    content {
      sid       = "Models"
      actions   = ["s3:GetObject"]
      resources = ["arn:${local.partition}:s3:::${trimsuffix(trimprefix(var.models_from, "s3://"), "/")}/*"]
    }
  }

  dynamic "statement" {
    for_each = length(local.parameter_arns) > 0 ? [1] : []

    content {
      sid       = "Parameters"
      actions   = ["ssm:GetParameter"]
      resources = local.parameter_arns
    }
  }

  dynamic "statement" {
    for_each = length(local.secret_arns) > 0 ? [1] : []

    content {
      sid       = "Secrets"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = local.secret_arns
    }
  }

  # --- Session Manager, instead of SSH. AmazonSSMManagedInstanceCore would allow reading every parameter of the account.

  statement {
    sid = "SessionManager"
    actions = [
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"] # no resource level
  }
}
