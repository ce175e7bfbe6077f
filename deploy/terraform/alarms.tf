locals {
  stranded_slack = 2 # tolerance for SQS's approximate counts, in messages

  # Alarms of each job queue. With several, their names end with the queue's.
  queue_alarms = merge([for name, suffix in local.metric_suffix : {
    "dead-letters${suffix == "" ? "" : "-${name}"}" = {
      description = "Jobs of the queue ${name} were dead-lettered: list them with their reasons (transcriptd dlq list), fix the cause, then redrive them (transcriptd dlq redrive)."
      metrics     = ["dead${suffix}"], expression = null, threshold = 1, periods = 1, period_seconds = 60
    }
    "oldest-message${suffix == "" ? "" : "-${name}"}" = {
      description = "The oldest job of the queue ${name} has waited longer than ${coalesce(local.job_queues[name].oldest_message_alarm_seconds, var.oldest_message_alarm_seconds)} s: check max_size, quotas and Spot capacity."
      metrics     = ["oldest${suffix}"], expression = null, threshold = coalesce(local.job_queues[name].oldest_message_alarm_seconds, var.oldest_message_alarm_seconds), periods = 5, period_seconds = 60
    }
  }]...)

  # The condition must hold for periods × period_seconds. Without an expression, the metric itself is compared.
  alarms = merge(local.queue_alarms, {
    dead-events = {
      description = "Events could not be delivered or read and are in the outbox's dead-letter queue."
      metrics     = ["dead_events"], expression = null, threshold = 1, periods = 1, period_seconds = 60
    }
    nobody-working = {
      description = "Jobs are waiting and no message is in flight, for longer than a cold start takes: there is no instance, or the daemons do not receive."
      metrics     = concat(local.in_flight_ids, local.visible_ids), expression = "IF(${local.visible} > 0 AND ${local.in_flight} < 1, 1, 0)"
      threshold   = 1, periods = ceil((var.deadlines.launch_hook + 300) / 300), period_seconds = 300
    }
    stranded = {
      description = "More messages are in flight than the instances can hold: responses to receives were lost, or many jobs are backing off."
      metrics     = concat(local.in_flight_ids, ["in_service"]), expression = "${local.in_flight} - in_service * ${var.max_jobs_in_flight}"
      threshold   = local.stranded_slack + 1, periods = 6, period_seconds = 300
    }
    launches-failing = {
      description = "The group wants more instances than it gets: no capacity, a quota, or abandoned launches. See its activity history."
      metrics     = ["desired", "in_service"], expression = "IF(desired > in_service, 1, 0)"
      threshold   = 1, periods = ceil((var.deadlines.launch_hook + 300) / 300), period_seconds = 300
    }
    idle-fleet = {
      description = "Instances have had nothing to do for ${var.idle_alarm_minutes} min and did not terminate themselves. Desired capacity was lowered. Remove their protection, and the group drains and terminates them: aws autoscaling set-instance-protection --no-protected-from-scale-in"
      metrics     = concat(local.in_flight_ids, ["in_service"], local.visible_ids)
      expression  = "IF(in_service > ${var.min_size} AND ${local.visible} + ${local.in_flight} < 1, 1, 0)"
      threshold   = 1, periods = var.idle_alarm_minutes / 5, period_seconds = 300
    }
  })
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = each.value.periods
  treat_missing_data  = "notBreaching"
  alarm_actions       = concat(var.alarm_topic_arns, each.key == "idle-fleet" ? [aws_autoscaling_policy.reap.arn] : [])
  ok_actions          = var.alarm_topic_arns
  tags                = local.tags

  dynamic "metric_query" {
    for_each = each.value.expression == null ? [] : [each.value.expression]

    content {
      id          = "result"
      expression  = metric_query.value
      label       = each.key
      return_data = true
    }
  }

  dynamic "metric_query" {
    for_each = { for id in each.value.metrics : id => local.metrics[id] }

    content {
      id          = metric_query.key
      return_data = each.value.expression == null ? true : null

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
        period      = each.value.period_seconds
        stat        = "Maximum"
      }
    }
  }
}

# Reports the reason of a failed launch at once; the alarm above fires only when failures persist.
resource "aws_autoscaling_notification" "failures" {
  count = length(var.alarm_topic_arns)

  group_names   = [aws_autoscaling_group.this.name]
  topic_arn     = var.alarm_topic_arns[count.index]
  notifications = ["autoscaling:EC2_INSTANCE_LAUNCH_ERROR", "autoscaling:EC2_INSTANCE_TERMINATE_ERROR"]
}
