mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  vpc_id             = "vpc-0aaaaaaaaaaaaaaaa"
  subnet_ids         = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
  release_bucket     = "releases"
  release_key        = "transcriptd/0.1.0.tar.gz"
  release_sha256     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  recording_prefixes = [{ prefix = "incoming/" }]
  queues = [
    { name = "interactive", weight = 3, oldest_message_alarm_seconds = 60 },
    { name = "batch", weight = 1, visibility = 600 },
  ]
}

run "several_queues" {
  command = plan

  assert {
    condition     = toset(keys(aws_sqs_queue.this)) == toset(["interactive", "interactive-dlq", "batch", "batch-dlq", "outbox", "outbox-dlq"])
    error_message = "Each queue has its own dead-letter queue."
  }

  assert {
    condition     = aws_sqs_queue.this["batch"].visibility_timeout_seconds == 600 && aws_sqs_queue.this["interactive"].visibility_timeout_seconds == 120
    error_message = "A queue has its own visibility timeout, or that of all."
  }

  assert {
    condition = alltrue([for name in ["interactive", "batch"] :
      endswith(jsondecode(aws_sqs_queue_redrive_policy.this[name].redrive_policy).deadLetterTargetArn, "transcriptd-${name}-dlq")
    ])
    error_message = "SQS moves the messages of a queue to its own dead-letter queue."
  }

  assert {
    condition = {
      for statement in data.aws_iam_policy_document.instance.statement : statement.sid => statement.resources if contains(["Jobs", "DeadLetters"], statement.sid)
      } == {
      Jobs        = toset(["arn:aws:sqs:eu-central-1:123456789012:transcriptd-interactive", "arn:aws:sqs:eu-central-1:123456789012:transcriptd-batch"])
      DeadLetters = toset(["arn:aws:sqs:eu-central-1:123456789012:transcriptd-interactive-dlq", "arn:aws:sqs:eu-central-1:123456789012:transcriptd-batch-dlq"])
    }
    error_message = "Instances may use every job queue and its dead-letter queue."
  }

  assert {
    condition     = { for key, alarm in aws_cloudwatch_metric_alarm.this : key => alarm.threshold if startswith(key, "oldest-message") } == { oldest-message-interactive = 60, oldest-message-batch = 3600 }
    error_message = "The age of the oldest message is watched for each queue."
  }

  assert {
    condition     = strcontains(one([for metric in one(one(aws_autoscaling_policy.backlog.target_tracking_configuration).customized_metric_specification).metrics : metric.expression if metric.return_data]), "SUM([FILL(visible_1, 0), FILL(visible_0, 0)]) / ")
    error_message = "Scaling follows the backlog of all queues."
  }

  assert {
    condition     = one(values(aws_cloudwatch_event_target.recordings)).arn == "arn:aws:sqs:eu-central-1:123456789012:transcriptd-batch"
    error_message = "Dropped files are the least urgent jobs."
  }

  assert {
    condition     = local.queue_settings.TRANSCRIPTD_QUEUE_WEIGHTS == "interactive=3 batch=1" && local.queue_settings.TRANSCRIPTD_QUEUE_VISIBILITY_TIMEOUT_SECONDS == "batch=600"
    error_message = "The daemon gets the weights and visibility timeouts by name."
  }
}
