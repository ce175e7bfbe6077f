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

run "actions" {
  command = plan

  assert {
    condition = jsonencode({ for statement in data.aws_iam_policy_document.instance.statement : statement.sid => sort(statement.actions) }) == jsonencode({
      Jobs           = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"]
      DeadLetters    = ["sqs:GetQueueAttributes", "sqs:SendMessage"]
      Outbox         = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:SendMessage"]
      Recordings     = ["s3:GetObject", "s3:GetObjectVersion"]
      Results        = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject", "s3:PutObjectTagging"]
      Buckets        = ["s3:ListBucket"]
      Lifecycle      = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat", "autoscaling:SetInstanceHealth", "autoscaling:TerminateInstanceInAutoScalingGroup"]
      LifecycleRead  = ["autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances"]
      Release        = ["s3:GetObject"]
      SessionManager = ["ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"]
    })
    error_message = "The role allows exactly these actions. Add new actions here, with the call that needs them."
  }

  assert {
    condition     = toset([for statement in data.aws_iam_policy_document.instance.statement : statement.sid if contains(statement.resources, "*")]) == toset(["LifecycleRead", "SessionManager"])
    error_message = "Only actions without a resource level may be allowed on *."
  }

  assert {
    condition = jsonencode({ for statement in data.aws_iam_policy_document.instance.statement : statement.sid => sort(statement.resources) if !contains(statement.resources, "*") }) == jsonencode({
      Jobs        = ["arn:aws:sqs:eu-central-1:123456789012:transcriptd-jobs"]
      DeadLetters = ["arn:aws:sqs:eu-central-1:123456789012:transcriptd-jobs-dlq"]
      Outbox      = ["arn:aws:sqs:eu-central-1:123456789012:transcriptd-outbox"]
      Recordings  = ["arn:aws:s3:::transcriptd-input-123456789012-eu-central-1/*"]
      Results     = ["arn:aws:s3:::transcriptd-output-123456789012-eu-central-1/transcripts/*"]
      Buckets     = ["arn:aws:s3:::transcriptd-input-123456789012-eu-central-1", "arn:aws:s3:::transcriptd-output-123456789012-eu-central-1"]
      Lifecycle   = ["arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:*:autoScalingGroupName/transcriptd"]
      Release     = ["arn:aws:s3:::releases/transcriptd/0.1.0.tar.gz"]
    })
    error_message = "Every other statement names its resources."
  }
}

run "event_bus" {
  command = plan

  variables {
    event_bus_arn = "arn:aws:events:eu-central-1:210987654321:event-bus/jobs"
    secrets       = { WEBHOOK_SECRET = "arn:aws:ssm:eu-central-1:123456789012:parameter/transcriptd/webhook" }
  }

  assert {
    condition = jsonencode([for statement in data.aws_iam_policy_document.instance.statement : [statement.actions, statement.resources] if statement.sid == "EventBus"]) == jsonencode([
      [["events:PutEvents"], ["arn:aws:events:eu-central-1:210987654321:event-bus/jobs"]]
    ])
    error_message = "The role may put events on this bus, and do nothing else with it."
  }
}

run "keys_and_secrets" {
  command = plan

  variables {
    kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/11111111-1111-1111-1111-111111111111"
    bucket_kms_key_arns = ["arn:aws:kms:eu-central-1:123456789012:key/22222222-2222-2222-2222-222222222222"]
    secrets = {
      WEBHOOK_SECRET = "arn:aws:ssm:eu-central-1:123456789012:parameter/transcriptd/webhook"
      HF_TOKEN       = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hf-AbCdEf"
    }
  }

  assert {
    condition = jsonencode({ for statement in data.aws_iam_policy_document.instance.statement : statement.sid => {
      actions = sort(statement.actions), resources = sort(statement.resources)
      } if contains(["Keys", "Parameters", "Secrets"], statement.sid) }) == jsonencode({
      Keys = {
        actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
        resources = [for digit in ["1", "2"] : format("arn:aws:kms:eu-central-1:123456789012:key/%s", replace("dddddddd-dddd-dddd-dddd-dddddddddddd", "d", digit))]
      }
      Parameters = { actions = ["ssm:GetParameter"], resources = ["arn:aws:ssm:eu-central-1:123456789012:parameter/transcriptd/webhook"] }
      Secrets    = { actions = ["secretsmanager:GetSecretValue"], resources = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:hf-AbCdEf"] }
    })
    error_message = "Keys and secrets are listed individually."
  }

  assert {
    condition = anytrue([for statement in data.aws_iam_policy_document.instance.statement :
      statement.sid == "Keys" && try(one(statement.condition).variable, "") == "kms:ViaService" && contains(try(one(statement.condition).values, []), "sqs.eu-central-1.amazonaws.com")
    ])
    error_message = "Keys are used only through the services."
  }
}

run "mirror_of_models" {
  command = plan

  variables {
    models_from = "s3://models/transcriptd/"
  }

  assert {
    condition     = [for statement in data.aws_iam_policy_document.instance.statement : statement.resources if statement.sid == "Models"] == [toset(["arn:aws:s3:::models/transcriptd/*"])]
    error_message = "Instances read the mirror and nothing else in its bucket."
  }
}

run "another_partition" {
  command = plan

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws-cn", dns_suffix = "amazonaws.com.cn" }
  }

  override_data {
    target = data.aws_region.current
    values = { region = "cn-north-1" }
  }

  assert {
    condition     = alltrue(flatten([for statement in data.aws_iam_policy_document.instance.statement : [for arn in statement.resources : arn == "*" || startswith(arn, "arn:aws-cn:")]]))
    error_message = "Every ARN uses the current partition."
  }
}
