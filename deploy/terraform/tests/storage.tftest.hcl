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

run "created_buckets" {
  command = plan

  assert {
    condition     = toset([for bucket in aws_s3_bucket.this : bucket.bucket]) == toset(["transcriptd-input-123456789012-eu-central-1", "transcriptd-output-123456789012-eu-central-1"])
    error_message = "Both buckets are created."
  }

  assert {
    condition     = alltrue([for block in aws_s3_bucket_public_access_block.this : block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets]) && length(aws_s3_bucket_public_access_block.this) == 2
    error_message = "Nothing is public."
  }

  assert {
    condition     = length(aws_s3_bucket_policy.this) == 2 && alltrue([for key in ["input", "output"] : one(one(data.aws_iam_policy_document.bucket[key].statement).condition).variable == "aws:SecureTransport" && length(one(data.aws_iam_policy_document.bucket[key].statement).resources) == 2])
    error_message = "TLS only, for bucket and objects."
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket_server_side_encryption_configuration.this : one(one(bucket.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"])
    error_message = "Encrypted by S3 unless a key is given."
  }

  assert {
    condition     = { for key, bucket in aws_s3_bucket_lifecycle_configuration.this : key => [for rule in bucket.rule : rule.id] } == { input = ["abort-uploads", "expire-noncurrent-versions"], output = ["abort-uploads", "expire-noncurrent-versions", "expire-checkpoints"] }
    error_message = "Incomplete uploads are aborted and checkpoints expire; nothing else expires by default."
  }

  assert {
    condition     = one(flatten([for rule in aws_s3_bucket_lifecycle_configuration.this["output"].rule : [for filter in rule.filter : filter.and] if rule.id == "expire-checkpoints"])).prefix == "transcripts/" && one(flatten([for rule in aws_s3_bucket_lifecycle_configuration.this["output"].rule : [for filter in rule.filter : filter.and] if rule.id == "expire-checkpoints"])).tags == tomap({ transcriptd = "checkpoint" })
    error_message = "Only tagged objects below the prefix expire as checkpoints."
  }

  assert {
    condition     = length(aws_s3_bucket_versioning.this) == 2
    error_message = "Versioning is on."
  }
}

run "expiry_and_no_versions" {
  command = plan

  variables {
    bucket_versioning = false
    recording_days    = 7
    result_days       = 90
  }

  assert {
    condition = length(aws_s3_bucket_versioning.this) == 0 && { for key, bucket in aws_s3_bucket_lifecycle_configuration.this : key => one([for rule in bucket.rule : one(rule.expiration).days if rule.id == "expire-objects"]) } == {
      input = 7, output = 90
    }
    error_message = "Recordings and results expire as configured."
  }
}

run "existing_buckets" {
  command = plan

  variables {
    input_buckets = ["media", "archive"]
    output_bucket = "results"
  }

  assert {
    condition     = length(aws_s3_bucket.this) + length(aws_s3_bucket_policy.this) + length(aws_s3_bucket_lifecycle_configuration.this) == 0
    error_message = "Existing buckets are not modified."
  }

  assert {
    condition = jsonencode({ for statement in data.aws_iam_policy_document.instance.statement : statement.sid => sort(statement.resources) if contains(["Recordings", "Results", "Buckets"], statement.sid) }) == jsonencode({
      Recordings = ["arn:aws:s3:::archive/*", "arn:aws:s3:::media/*"]
      Results    = ["arn:aws:s3:::results/transcripts/*"]
      Buckets    = ["arn:aws:s3:::archive", "arn:aws:s3:::media", "arn:aws:s3:::results"]
    })
    error_message = "The role covers the given buckets."
  }
}

run "key_given" {
  command = plan

  variables {
    kms_key_arn        = "arn:aws:kms:eu-central-1:123456789012:key/11111111-1111-1111-1111-111111111111"
    scratch_volume_gib = 200
  }

  assert {
    condition     = alltrue([for queue in aws_sqs_queue.this : queue.kms_master_key_id == var.kms_key_arn])
    error_message = "Queues use the key."
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket_server_side_encryption_configuration.this : one(one(bucket.rule).apply_server_side_encryption_by_default).kms_master_key_id == var.kms_key_arn && one(bucket.rule).bucket_key_enabled])
    error_message = "Buckets use the key, with a bucket key."
  }

  assert {
    condition     = alltrue([for volume in aws_launch_template.this.block_device_mappings : one(volume.ebs).kms_key_id == var.kms_key_arn]) && length(aws_launch_template.this.block_device_mappings) == 2
    error_message = "Root and scratch volume use the key."
  }
}

run "no_notifications" {
  command = plan

  assert {
    condition     = length(aws_cloudwatch_event_rule.recordings) + length(aws_s3_bucket_notification.this) == 0 && alltrue([for key, policy in data.aws_iam_policy_document.queue : length(policy.statement) == 1])
    error_message = "By default, no object becomes a job, and no service may send to the queues."
  }
}

run "notifications_of_the_created_bucket" {
  command = plan

  variables {
    recording_prefixes = [{ prefix = "calls/" }, { prefix = "meetings/" }]
  }

  assert {
    condition     = one(aws_s3_bucket_notification.this["input"].*).eventbridge && length(aws_s3_bucket_notification.this) == 1
    error_message = "The created bucket sends its events to EventBridge."
  }

  assert {
    condition     = jsondecode(one(values(aws_cloudwatch_event_rule.recordings)).event_pattern).detail == { bucket = { name = ["transcriptd-input-123456789012-eu-central-1"] }, object = { key = [{ prefix = "calls/" }, { prefix = "meetings/" }] } }
    error_message = "One rule for a bucket matches its prefixes."
  }

  assert {
    condition     = one(values(aws_cloudwatch_event_target.recordings)).arn == "arn:aws:sqs:eu-central-1:123456789012:transcriptd-jobs"
    error_message = "Events go to the job queue."
  }

  assert {
    condition = jsonencode({ for key, policy in data.aws_iam_policy_document.queue : key => [for statement in policy.statement : one(statement.condition).values if statement.sid == "Notifications"] }) == jsonencode({
      jobs       = [["arn:aws:events:eu-central-1:123456789012:rule/transcriptd-${substr(sha256("transcriptd-input-123456789012-eu-central-1"), 0, 12)}"]]
      jobs-dlq   = [["arn:aws:events:eu-central-1:123456789012:rule/transcriptd-${substr(sha256("transcriptd-input-123456789012-eu-central-1"), 0, 12)}"]]
      outbox     = []
      outbox-dlq = []
    })
    error_message = "Only the rule may send, and only jobs and dead letters."
  }
}

run "notifications_of_existing_buckets" {
  command = plan

  variables {
    input_buckets      = ["media", "archive"]
    output_bucket      = "media"
    recording_prefixes = [{ prefix = "calls/" }, { bucket = "archive", prefix = "transcripts/" }]
  }

  assert {
    condition     = toset(keys(aws_cloudwatch_event_rule.recordings)) == toset(["archive", "media"]) && length(aws_s3_bucket_notification.this) == 0
    error_message = "Rules for both buckets, whose configuration is left alone."
  }
}
