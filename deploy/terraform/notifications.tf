# New objects become jobs: EventBridge sends their events to the last, least urgent job queue. Unlike the notifications of S3 itself, its rules
# leave the configuration of existing buckets alone.

locals {
  notified_prefixes = { for each in var.recording_prefixes : coalesce(each.bucket, local.input_buckets[0]) => each.prefix... }
  rule_names        = { for bucket in keys(local.notified_prefixes) : bucket => "${var.name}-${substr(sha256(bucket), 0, 12)}" } # a bucket's name may be too long
  rule_arns         = [for name in values(local.rule_names) : "arn:${local.partition}:events:${local.region}:${local.account_id}:rule/${name}"]
  # What EventBridge can't deliver for a day goes to the dead-letter queue, too.
  notified_queues = length(var.recording_prefixes) > 0 ? [local.notified_queue, "${local.notified_queue}-dlq"] : []
  notified_queue  = var.queues[length(var.queues) - 1].name
}

resource "aws_s3_bucket_notification" "this" {
  for_each = { for key, name in local.created_buckets : key => name if contains(keys(local.notified_prefixes), name) }

  bucket      = aws_s3_bucket.this[each.key].id
  eventbridge = true
}

resource "aws_cloudwatch_event_rule" "recordings" {
  for_each = local.notified_prefixes

  name        = local.rule_names[each.key]
  description = "New recordings in ${each.key} for the transcriptd fleet ${var.name}"
  tags        = local.tags

  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created"]
    detail = {
      bucket = { name = [each.key] }
      object = { key = [for prefix in each.value : { prefix = prefix }] }
    }
  })
}

resource "aws_cloudwatch_event_target" "recordings" {
  for_each = local.notified_prefixes

  rule = aws_cloudwatch_event_rule.recordings[each.key].name
  arn  = local.queue_arns[local.notified_queue]

  dead_letter_config {
    arn = local.queue_arns["${local.notified_queue}-dlq"]
  }

  depends_on = [aws_sqs_queue_policy.this]
}
