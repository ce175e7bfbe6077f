# The job queues and the outbox for undelivered webhooks, each with a dead-letter queue.

locals {
  dead_letter_retention_seconds = 1209600 # maximum of SQS

  job_queues = { for queue in var.queues : queue.name => queue }

  queues = merge(
    { for name, queue in local.job_queues : name => {
      retention_seconds = var.message_retention_seconds, visibility_seconds = coalesce(queue.visibility, var.deadlines.visibility)
    } },
    { outbox = { retention_seconds = 345600, visibility_seconds = 60 } },
    { for name in concat(keys(local.job_queues), ["outbox"]) : "${name}-dlq" => {
      retention_seconds = local.dead_letter_retention_seconds, visibility_seconds = 30
    } },
  )

  queue_urls = { for key in keys(local.queues) : key => aws_sqs_queue.this[key].id }

  # As the daemon's settings name them. One queue named jobs needs no name there.
  one_unnamed   = length(var.queues) == 1 && var.queues[0].name == "jobs"
  queue_setting = join(" ", [for queue in var.queues : "${local.one_unnamed ? "" : "${queue.name}="}${local.queue_urls[queue.name]}"])
  dlq_setting   = join(" ", [for queue in var.queues : "${local.one_unnamed ? "" : "${queue.name}="}${local.queue_urls["${queue.name}-dlq"]}"])
  queue_settings = merge(
    { TRANSCRIPTD_QUEUE_URL = local.queue_setting, TRANSCRIPTD_DLQ_URL = local.dlq_setting },
    { for name, values in {
      TRANSCRIPTD_QUEUE_WEIGHTS                    = [for queue in var.queues : "${queue.name}=${queue.weight}" if queue.weight != null]
      TRANSCRIPTD_QUEUE_VISIBILITY_TIMEOUT_SECONDS = [for queue in var.queues : "${queue.name}=${queue.visibility}" if queue.visibility != null]
    } : name => join(" ", values) if length(values) > 0 },
  )

  redrives = merge({ for name in keys(local.job_queues) : name => { target = "${name}-dlq", max_receive_count = var.max_receive_count } }, {
    # An event is received for each of nine attempts, whenever a wait exceeds SQS's 12 h, and hourly if it cannot be read.
    outbox = { target = "outbox-dlq", max_receive_count = 50 }
  })
}

resource "aws_sqs_queue" "this" {
  for_each = local.queues

  name                       = "${var.name}-${each.key}"
  visibility_timeout_seconds = each.value.visibility_seconds
  message_retention_seconds  = each.value.retention_seconds
  receive_wait_time_seconds  = 20
  max_message_size           = 1048576 # a dead letter adds its reason to a job of maximum size

  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : 3600

  tags = local.tags
}

resource "aws_sqs_queue_redrive_policy" "this" {
  for_each = local.redrives

  queue_url = aws_sqs_queue.this[each.key].id
  redrive_policy = jsonencode({
    deadLetterTargetArn = local.queue_arns[each.value.target]
    maxReceiveCount     = each.value.max_receive_count
  })

  depends_on = [aws_sqs_queue.this] # the target ARN is built from a name, not read from the resource
}

resource "aws_sqs_queue_redrive_allow_policy" "this" {
  for_each = local.redrives

  queue_url = aws_sqs_queue.this[each.value.target].id
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [local.queue_arns[each.key]]
  })
}

data "aws_iam_policy_document" "queue" {
  for_each = local.queues

  statement {
    sid       = "DenyWithoutTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [local.queue_arns[each.key]]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  dynamic "statement" {
    for_each = contains(local.notified_queues, each.key) ? [1] : []

    content {
      sid       = "Notifications"
      actions   = ["sqs:SendMessage"]
      resources = [local.queue_arns[each.key]]

      principals {
        type        = "Service"
        identifiers = ["events.amazonaws.com"]
      }

      condition {
        test     = "ArnEquals"
        variable = "aws:SourceArn"
        values   = local.rule_arns
      }
    }
  }
}

resource "aws_sqs_queue_policy" "this" {
  for_each = local.queues

  queue_url = aws_sqs_queue.this[each.key].id
  policy    = data.aws_iam_policy_document.queue[each.key].json
}
