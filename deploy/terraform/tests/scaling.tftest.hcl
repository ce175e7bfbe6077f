mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  vpc_id         = "vpc-0aaaaaaaaaaaaaaaa"
  subnet_ids     = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
  release_bucket = "releases"
  release_key    = "transcriptd/0.1.0.tar.gz"
  release_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "target" {
  command = plan

  variables {
    mean_job_seconds        = 90
    acceptable_wait_seconds = 900
  }

  assert {
    condition     = output.backlog_target == 10 && one(aws_autoscaling_policy.backlog.target_tracking_configuration).target_value == 10
    error_message = "900 s acceptable wait at 90 s per job is a backlog of 10 jobs per instance."
  }

  assert {
    condition     = one(aws_autoscaling_policy.backlog.target_tracking_configuration).disable_scale_in
    error_message = "Target tracking must not scale in: it does not know which instances are idle."
  }
}

run "target_of_long_jobs" {
  command = plan

  variables {
    mean_job_seconds        = 3600
    acceptable_wait_seconds = 600
  }

  assert {
    condition     = output.backlog_target == 1
    error_message = "A target below one could never be met by an instance with one job."
  }
}

run "expressions" {
  command = plan

  assert {
    condition = jsonencode({
      for metric in one(one(aws_autoscaling_policy.backlog.target_tracking_configuration).customized_metric_specification).metrics :
      metric.id => { expression = metric.expression, returned = metric.return_data, of = [for stat in metric.metric_stat : { for dimension in one(stat.metric).dimensions : dimension.name => dimension.value }] }
      }) == jsonencode({
      backlog_per_instance = { expression = "visible / IF(FILL(in_service, REPEAT) > 0, FILL(in_service, REPEAT), 1)", returned = true, of = [] }
      in_service           = { expression = null, returned = false, of = [{ AutoScalingGroupName = "transcriptd" }] }
      visible              = { expression = null, returned = false, of = [{ QueueName = "transcriptd-jobs" }] }
    })
    error_message = "Only the quotient is returned, its dimensions are right, and it never divides by zero."
  }
}

run "wake" {
  command = plan

  variables {
    mean_job_seconds        = 120
    acceptable_wait_seconds = 600
    max_size                = 10
  }

  assert {
    condition = toset([for step in aws_autoscaling_policy.wake.step_adjustment : jsonencode([step.metric_interval_lower_bound, step.metric_interval_upper_bound, step.scaling_adjustment])]) == toset([
      jsonencode(["0", "19", 1]), jsonencode(["19", "79", 4]), jsonencode(["79", null, 10]),
    ])
    error_message = "Steps have no gaps, and none exceeds max_size."
  }

  assert {
    condition     = aws_autoscaling_policy.wake.adjustment_type == "ChangeInCapacity"
    error_message = "ExactCapacity could undo a target tracking request."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.wake.threshold == 1 && aws_cloudwatch_metric_alarm.wake.evaluation_periods == 1
    error_message = "One job for one minute wakes the fleet."
  }

  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.wake.metric_query : query.expression if query.return_data == true]) == "IF(FILL(desired, REPEAT) < 1, visible, 0)"
    error_message = "Only an empty group is woken; otherwise every busy minute would add an instance."
  }
}

run "reaper" {
  command = plan

  variables {
    min_size           = 2
    idle_alarm_minutes = 30
  }

  assert {
    condition     = one(aws_autoscaling_policy.reap.step_adjustment).scaling_adjustment == 2 && aws_autoscaling_policy.reap.adjustment_type == "ExactCapacity"
    error_message = "The idle-fleet policy sets min_size."
  }

  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.this["idle-fleet"].metric_query : query.expression if query.return_data == true]) == "IF(in_service > 2 AND visible + in_flight < 1, 1, 0)" && aws_cloudwatch_metric_alarm.this["idle-fleet"].evaluation_periods == 6
    error_message = "Idle means: more than min_size instances and no job waiting or in flight for the whole period."
  }
}

run "alarms" {
  # Applied against the mock provider, so that the ARNs are known.

  variables {
    alarm_topic_arns   = ["arn:aws:sns:eu-central-1:123456789012:alarms"]
    max_jobs_in_flight = 3
  }

  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.this)) == toset(["dead-letters", "dead-events", "oldest-message", "nobody-working", "stranded", "launches-failing", "idle-fleet"])
    error_message = "An alarm is missing or new: add a test and a row in README.md."
  }

  assert {
    condition     = alltrue([for name, alarm in aws_cloudwatch_metric_alarm.this : name == "idle-fleet" || alarm.alarm_actions == toset(["arn:aws:sns:eu-central-1:123456789012:alarms"])])
    error_message = "Alarms go to the topic."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : length([for query in alarm.metric_query : query if query.return_data == true]) == 1])
    error_message = "CloudWatch compares exactly one series."
  }

  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.this["stranded"].metric_query : query.expression if query.return_data == true]) == "in_flight - in_service * 3"
    error_message = "An instance holds max_jobs_in_flight messages at most; no instance holds the rest."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["nobody-working"].evaluation_periods * 300 > var.deadlines.launch_hook
    error_message = "A cold start raises no alarm."
  }

  assert {
    condition     = one(aws_autoscaling_notification.failures).notifications == toset(["autoscaling:EC2_INSTANCE_LAUNCH_ERROR", "autoscaling:EC2_INSTANCE_TERMINATE_ERROR"])
    error_message = "A failed launch is reported with its reason."
  }
}
