# Scale out from zero by steps, from one by target tracking. No scale-in here: idle instances terminate themselves.

locals {
  # Backlog per instance at which the last job waits no longer than acceptable_wait_seconds.
  backlog_target = max(1, var.acceptable_wait_seconds / var.mean_job_seconds)

  # Starting several instances for a burst saves a second cold start. Each step: minimum backlog, instances.
  wake_steps = [
    { from = 1, instances = 1 },
    { from = ceil(4 * local.backlog_target), instances = min(4, var.max_size) },
    { from = ceil(16 * local.backlog_target), instances = min(16, var.max_size) },
  ]

  # Metrics of each job queue. Several queues are numbered: their names may have characters that an ID must not have.
  metric_suffix = { for index, queue in var.queues : queue.name => length(var.queues) == 1 ? "" : "_${index}" }
  queue_metrics = flatten([for name, suffix in local.metric_suffix : [
    { id = "visible${suffix}", queue = name, name = "ApproximateNumberOfMessagesVisible" },
    { id = "in_flight${suffix}", queue = name, name = "ApproximateNumberOfMessagesNotVisible" },
    { id = "oldest${suffix}", queue = name, name = "ApproximateAgeOfOldestMessage" },
    { id = "dead${suffix}", queue = "${name}-dlq", name = "ApproximateNumberOfMessagesVisible" },
  ]])

  # The queues together. SQS reports nothing about a queue that was idle for six hours; the others still count.
  visible_ids   = [for suffix in values(local.metric_suffix) : "visible${suffix}"]
  in_flight_ids = [for suffix in values(local.metric_suffix) : "in_flight${suffix}"]
  visible       = length(var.queues) == 1 ? "visible" : "SUM([${join(", ", [for id in local.visible_ids : "FILL(${id}, 0)"])}])"
  in_flight     = length(var.queues) == 1 ? "in_flight" : "SUM([${join(", ", [for id in local.in_flight_ids : "FILL(${id}, 0)"])}])"

  # Metrics that scaling and alarms use, by a short name.
  metrics = merge(
    { for each in local.queue_metrics : each.id => { namespace = "AWS/SQS", name = each.name, dimensions = { QueueName = "${var.name}-${each.queue}" } } },
    { dead_events = { namespace = "AWS/SQS", name = "ApproximateNumberOfMessagesVisible", dimensions = { QueueName = "${var.name}-outbox-dlq" } } },
    { for id, name in { desired = "GroupDesiredCapacity", in_service = "GroupInServiceInstances" } : id => {
      namespace                 = "AWS/AutoScaling", name = name, dimensions = { AutoScalingGroupName = var.name }
    } },
  )

  # Also defined at zero instances. The group's metric may be a minute late, so repeat its last value: with a constant, a
  # fleet of fifty would look like one instance and launch 49 more. The queue's metric is not filled: missing data is no
  # reason to launch.
  filled_in_service           = "FILL(in_service, REPEAT)"
  backlog_per_instance        = "${local.visible} / IF(${local.filled_in_service} > 0, ${local.filled_in_service}, 1)"
  backlog_while_nobody_exists = "IF(FILL(desired, REPEAT) < 1, ${local.visible}, 0)"
}

# --- 0 → 1 ------------------------------------------------------------------------------------------------------------

resource "aws_autoscaling_policy" "wake" {
  name                    = "${var.name}-wake"
  autoscaling_group_name  = aws_autoscaling_group.this.name
  policy_type             = "StepScaling"
  adjustment_type         = "ChangeInCapacity" # ExactCapacity could undo a concurrent target tracking request
  metric_aggregation_type = "Maximum"

  dynamic "step_adjustment" {
    for_each = local.wake_steps

    content { # bounds are relative to the alarm's threshold, 1
      metric_interval_lower_bound = step_adjustment.value.from - 1
      metric_interval_upper_bound = step_adjustment.key == length(local.wake_steps) - 1 ? null : local.wake_steps[step_adjustment.key + 1].from - 1
      scaling_adjustment          = step_adjustment.value.instances
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "wake" {
  alarm_name          = "${var.name}-wake"
  alarm_description   = "Not a fault: jobs are waiting and there is no instance. Launches the first instances."
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  evaluation_periods  = 1
  datapoints_to_alarm = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_autoscaling_policy.wake.arn]
  tags                = local.tags

  metric_query {
    id          = "waiting"
    expression  = local.backlog_while_nobody_exists
    label       = "jobs waiting while no instance exists"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { for id in concat(["desired"], local.visible_ids) : id => local.metrics[id] }

    content {
      id = metric_query.key

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
        period      = 60
        stat        = "Maximum"
      }
    }
  }
}

# --- 1 → n ------------------------------------------------------------------------------------------------------------

resource "aws_autoscaling_policy" "backlog" {
  name                   = "${var.name}-backlog-per-instance"
  autoscaling_group_name = aws_autoscaling_group.this.name
  policy_type            = "TargetTrackingScaling"

  target_tracking_configuration {
    target_value     = local.backlog_target
    disable_scale_in = true

    customized_metric_specification {
      metrics {
        id          = "backlog_per_instance"
        expression  = local.backlog_per_instance
        label       = "jobs waiting per instance in service"
        return_data = true
      }

      dynamic "metrics" {
        for_each = { for id in concat(["in_service"], local.visible_ids) : id => local.metrics[id] }

        content {
          id          = metrics.key
          return_data = false

          metric_stat {
            stat = "Average"

            metric {
              namespace   = metrics.value.namespace
              metric_name = metrics.value.name

              dynamic "dimensions" {
                for_each = metrics.value.dimensions

                content {
                  name  = dimensions.key
                  value = dimensions.value
                }
              }
            }
          }
        }
      }
    }
  }
}

# --- n → min, if idle instances fail to terminate themselves -----------------------------------------------------------

resource "aws_autoscaling_policy" "reap" {
  name                    = "${var.name}-reap"
  autoscaling_group_name  = aws_autoscaling_group.this.name
  policy_type             = "StepScaling"
  adjustment_type         = "ExactCapacity"
  metric_aggregation_type = "Minimum"

  step_adjustment {
    metric_interval_lower_bound = 0
    scaling_adjustment          = var.min_size
  }
}
