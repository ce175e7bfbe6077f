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

run "spot_only" {
  command = plan

  variables {
    on_demand_base_capacity = 0
    instance_types          = ["g6e.xlarge", "p4d.24xlarge", "p5.48xlarge"]
  }

  assert {
    condition     = one(one(aws_autoscaling_group.this.mixed_instances_policy).instances_distribution).on_demand_base_capacity == 0 && one(one(aws_autoscaling_group.this.mixed_instances_policy).instances_distribution).on_demand_percentage_above_base_capacity == 0
    error_message = "No instance is On-Demand."
  }

  assert {
    condition     = [for override in one(one(aws_autoscaling_group.this.mixed_instances_policy).launch_template).override : override.instance_type] == ["g6e.xlarge", "p4d.24xlarge", "p5.48xlarge"]
    error_message = "The types are used in the given order."
  }
}

run "given_ami_and_settings" {
  variables {
    ami_id         = "ami-0bbbbbbbbbbbbbbbb"
    release_sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    environment    = { WEBHOOK_URL = "https://app.example.com/hooks?a=\"b\"", TRANSCRIPTD_MODEL = "large-v3-turbo" }
    event_bus_arn  = "arn:aws:events:eu-central-1:123456789012:event-bus/jobs"
    secrets        = { WEBHOOK_SECRET = "arn:aws:ssm:eu-central-1:123456789012:parameter/webhook" }
    deadlines      = { drain = 1200, stop = 1300, termination_hook = 1500 }
    profiles       = "[calls]\nprefix = \"$HOME/\"\n"
  }

  assert {
    condition     = aws_launch_template.this.image_id == "ami-0bbbbbbbbbbbbbbbb" && length(data.aws_ssm_parameter.ami) == 0
    error_message = "A given AMI is used without a lookup."
  }

  assert {
    condition = alltrue([for line in [
      "TRANSCRIPTD_EVENT_BUS=\"arn:aws:events:eu-central-1:123456789012:event-bus/jobs\"",
      "WEBHOOK_URL=\"https://app.example.com/hooks?a=\\\"b\\\"\"",
      "TRANSCRIPTD_MODEL=\"large-v3-turbo\"",
      "TRANSCRIPTD_DRAIN_TIMEOUT_SECONDS=\"1200\"",
      "TRANSCRIPTD_LAUNCH_HOOK=\"transcriptd-launch\"",
      "bash \"$installer\" --source \"$source_dir\" --models 'hub'",
      "TimeoutStopSec=1300",
      "TRANSCRIPTD_PROFILES=\"/etc/transcriptd/profiles.toml\"",
      "prefix = \"$HOME/\"",
      "add_secret 'WEBHOOK_SECRET' 'arn:aws:ssm:eu-central-1:123456789012:parameter/webhook'",
    ] : contains(split("\n", base64decode(aws_launch_template.this.user_data)), line)])
    error_message = "Settings are quoted for systemd, secrets are references."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.this.user_data), "sha256sum --check")
    error_message = "The checksum of the release is verified."
  }

  assert {
    condition     = aws_autoscaling_lifecycle_hook.this["transcriptd-termination"].heartbeat_timeout == 1500
    error_message = "The hook follows the deadlines."
  }
}

run "open_by_default" {
  command = plan

  assert {
    condition     = [for rule in aws_vpc_security_group_egress_rule.https : "${rule.cidr_ipv4} ${rule.ip_protocol} ${rule.from_port}-${rule.to_port}"] == ["0.0.0.0/0 tcp 443-443"]
    error_message = "Only HTTPS goes out."
  }

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.metrics) == 0 && length(aws_vpc_endpoint.interface) + length(aws_vpc_endpoint.s3) == 0
    error_message = "No ingress and no VPC endpoints by default."
  }
}

run "metrics_source" {
  variables {
    metrics_source_security_group_ids = ["sg-0cccccccccccccccc"]
  }

  assert {
    condition     = [for rule in aws_vpc_security_group_ingress_rule.metrics : "${rule.referenced_security_group_id} ${rule.ip_protocol} ${rule.from_port}-${rule.to_port}"] == ["sg-0cccccccccccccccc tcp 9464-9464"] && strcontains(base64decode(aws_launch_template.this.user_data), "TRANSCRIPTD_HTTP_HOST=\"0.0.0.0\"")
    error_message = "Only the given security group may connect, and the daemon listens for it."
  }
}

run "private_endpoints" {
  command = plan

  variables {
    create_vpc_endpoints = true
    models_from          = "s3://models/transcriptd"
    route_table_ids      = ["rtb-0aaaaaaaaaaaaaaaa"]
    secrets              = { HF_TOKEN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hf-AbCdEf" }
  }

  assert {
    condition     = toset(keys(aws_vpc_endpoint.interface)) == toset(["autoscaling", "secretsmanager", "sqs", "ssm", "ssmmessages"]) && one(aws_vpc_endpoint.s3).vpc_endpoint_type == "Gateway"
    error_message = "Every service that instances call has an endpoint."
  }

  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.interface : endpoint.private_dns_enabled])
    error_message = "Private DNS resolves the services to the endpoints."
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.https) == 0 && length(aws_vpc_security_group_egress_rule.endpoint) == 1 && length(aws_vpc_security_group_egress_rule.s3) == 1
    error_message = "Instances reach the endpoints and nothing else."
  }
}

run "private_endpoints_with_an_event_bus" {
  command = plan

  variables {
    create_vpc_endpoints = true
    models_from          = "s3://models/transcriptd"
    route_table_ids      = ["rtb-0aaaaaaaaaaaaaaaa"]
    event_bus_arn        = "arn:aws:events:eu-central-1:210987654321:event-bus/jobs"
    secrets              = { WEBHOOK_SECRET = "arn:aws:ssm:eu-central-1:123456789012:parameter/webhook" }
  }

  assert {
    condition     = contains(keys(aws_vpc_endpoint.interface), "events")
    error_message = "EventBridge has an endpoint if the bus is in this region."
  }
}

run "private_endpoints_with_webhooks" {
  command = plan

  variables {
    create_vpc_endpoints = true
    route_table_ids      = ["rtb-0aaaaaaaaaaaaaaaa"]
    egress_cidr_blocks   = ["10.20.0.0/16", "2001:db8::/32"]
  }

  assert {
    condition     = { for rule in aws_vpc_security_group_egress_rule.https : coalesce(rule.cidr_ipv4, rule.cidr_ipv6) => rule.cidr_ipv4 == null } == { "10.20.0.0/16" = false, "2001:db8::/32" = true }
    error_message = "Webhook receivers can be added."
  }
}
