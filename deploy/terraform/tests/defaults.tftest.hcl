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

run "queues" {
  command = plan

  assert {
    condition     = jsondecode(aws_sqs_queue_redrive_policy.this["jobs"].redrive_policy).maxReceiveCount == 10
    error_message = "Interruptions count as receives, so maxReceiveCount must allow ten."
  }

  assert {
    condition = alltrue([for source, target in { jobs = "jobs-dlq", outbox = "outbox-dlq" } :
      jsondecode(aws_sqs_queue_redrive_policy.this[source].redrive_policy).deadLetterTargetArn == "arn:aws:sqs:eu-central-1:123456789012:transcriptd-${target}"
      && jsondecode(aws_sqs_queue_redrive_allow_policy.this[source].redrive_allow_policy) == {
        redrivePermission = "byQueue", sourceQueueArns = ["arn:aws:sqs:eu-central-1:123456789012:transcriptd-${source}"]
    }])
    error_message = "Each queue moves to its own dead-letter queue, which accepts messages only from that queue."
  }

  assert {
    condition     = alltrue([for queue in aws_sqs_queue.this : queue.sqs_managed_sse_enabled && queue.kms_master_key_id == null])
    error_message = "Every queue is encrypted by SQS unless a key is given."
  }

  assert {
    condition = alltrue([for key in ["jobs", "jobs-dlq", "outbox", "outbox-dlq"] :
      one(data.aws_iam_policy_document.queue[key].statement).effect == "Deny"
      && one(one(data.aws_iam_policy_document.queue[key].statement).condition).variable == "aws:SecureTransport"
      && one(data.aws_iam_policy_document.queue[key].statement).resources == toset(["arn:aws:sqs:eu-central-1:123456789012:transcriptd-${key}"])
    ]) && length(aws_sqs_queue_policy.this) == 4
    error_message = "Each queue policy denies requests without TLS."
  }

  assert {
    condition     = alltrue([for key in ["jobs", "outbox"] : aws_sqs_queue.this["${key}-dlq"].message_retention_seconds > aws_sqs_queue.this[key].message_retention_seconds])
    error_message = "A moved message keeps its age, so the dead-letter queue must retain messages longer."
  }
}

run "instances" {
  command = plan

  assert {
    condition = one(aws_launch_template.this.metadata_options).http_tokens == "required" && one(aws_launch_template.this.metadata_options).http_put_response_hop_limit == 1 && one(aws_launch_template.this.metadata_options).instance_metadata_tags == "disabled"

    error_message = "IMDSv2 only, one hop, no tags in the metadata."
  }

  assert {
    condition     = alltrue([for volume in aws_launch_template.this.block_device_mappings : one(volume.ebs).encrypted == "true" && one(volume.ebs).volume_type == "gp3"]) && length(aws_launch_template.this.block_device_mappings) == 1
    error_message = "One encrypted gp3 volume; scratch is instance store."
  }

  assert {
    condition     = aws_launch_template.this.instance_initiated_shutdown_behavior == "terminate" && aws_launch_template.this.key_name == null && one(aws_launch_template.this.monitoring).enabled
    error_message = "Shutdown terminates an instance; no SSH key; detailed monitoring."
  }

  assert {
    condition     = aws_launch_template.this.image_id == "ami-0aaaaaaaaaaaaaaaa"
    error_message = "The AMI comes from the SSM parameter."
  }
}

run "user_data" {
  # Applied against the mock provider, so that the queue URLs are known.

  assert {
    condition = alltrue([for line in [
      "TRANSCRIPTD_QUEUE_URL=\"https://sqs.eu-central-1.amazonaws.com/123456789012/queue\"",
      "TRANSCRIPTD_VISIBILITY_TIMEOUT_SECONDS=\"120\"",
      "TRANSCRIPTD_HEARTBEAT_SECONDS=\"30\"",
      "TRANSCRIPTD_DRAIN_TIMEOUT_SECONDS=\"300\"",
      "TRANSCRIPTD_OUTPUT_BUCKET=\"transcriptd-output-123456789012-eu-central-1\"",
      "TRANSCRIPTD_HTTP_HOST=\"127.0.0.1\"",
      "TRANSCRIPTD_MAX_JOBS_IN_FLIGHT=\"16\"",
      "TimeoutStopSec=360",
    ] : contains(split("\n", base64decode(aws_launch_template.this.user_data)), line)])
    error_message = "The environment file has the settings of docs/configuration.md."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.this.user_data), "install.sh") && strcontains(base64decode(aws_launch_template.this.user_data), "'s3://releases/transcriptd/0.1.0.tar.gz'")
    error_message = "The release is installed by its own install.sh."
  }

  assert {
    condition     = length(base64decode(aws_launch_template.this.user_data)) < 16384
    error_message = "User data is limited to 16 KiB."
  }
}

run "fleet" {
  command = plan

  assert {
    condition     = aws_autoscaling_group.this.min_size == 0 && aws_autoscaling_group.this.max_size == 10
    error_message = "The fleet scales to zero and has a maximum size."
  }

  assert {
    condition     = aws_autoscaling_group.this.protect_from_scale_in && aws_autoscaling_group.this.capacity_rebalance && contains(aws_autoscaling_group.this.suspended_processes, "AZRebalance")
    error_message = "Only the instance itself terminates a busy instance."
  }

  assert {
    condition     = one(one(aws_autoscaling_group.this.instance_refresh).preferences).scale_in_protected_instances == "Refresh"
    error_message = "A refresh must replace protected instances; otherwise it waits for an hour and fails."
  }

  assert {
    condition     = one(one(aws_autoscaling_group.this.mixed_instances_policy).instances_distribution).spot_allocation_strategy == "price-capacity-optimized" && one(one(aws_autoscaling_group.this.mixed_instances_policy).instances_distribution).on_demand_base_capacity == 1
    error_message = "Spot by capacity, above one On-Demand instance."
  }

  assert {
    condition     = { for hook in aws_autoscaling_lifecycle_hook.this : hook.name => hook.default_result } == { transcriptd-launch = "ABANDON", transcriptd-termination = "CONTINUE" }
    error_message = "A failed launch is abandoned; a stuck termination continues."
  }

  assert {
    condition     = toset([for hook in aws_autoscaling_group.this.initial_lifecycle_hook : hook.name]) == toset(keys(aws_autoscaling_lifecycle_hook.this))
    error_message = "The first instances also have the hooks."
  }

  assert {
    condition     = alltrue([for name in ["GroupDesiredCapacity", "GroupInServiceInstances"] : contains(aws_autoscaling_group.this.enabled_metrics, name)])
    error_message = "The group must publish the metrics that scaling uses."
  }

  assert {
    condition     = var.deadlines.heartbeat * 3 <= var.deadlines.visibility && var.deadlines.drain < var.deadlines.stop && var.deadlines.stop < aws_autoscaling_lifecycle_hook.this["transcriptd-termination"].heartbeat_timeout
    error_message = "heartbeat < visibility / 3; drain < TimeoutStopSec < termination hook."
  }
}
