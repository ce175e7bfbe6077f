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

# Each of these must fail the validation of the named variable.

run "name_unfit_for_buckets" {
  command = plan

  variables {
    name = "Transcriptd_1"
  }

  expect_failures = [var.name]
}

run "too_few_receives" {
  command = plan

  variables {
    max_receive_count = 3
  }

  expect_failures = [var.max_receive_count]
}

run "retention_beyond_the_dead_letters" {
  command = plan

  variables {
    message_retention_seconds = 1209600
  }

  expect_failures = [var.message_retention_seconds]
}

run "key_alias" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:alias/transcriptd"
  }

  expect_failures = [var.kms_key_arn]
}

run "slow_heartbeat" {
  command = plan

  variables {
    deadlines = { visibility = 120, heartbeat = 60 }
  }

  expect_failures = [var.deadlines]
}

run "drain_beyond_stop" {
  command = plan

  variables {
    deadlines = { drain = 400 }
  }

  expect_failures = [var.deadlines]
}

run "stop_beyond_the_hook" {
  command = plan

  variables {
    deadlines = { stop = 900 }
  }

  expect_failures = [var.deadlines]
}

run "launch_hook_below_model_loading" {
  command = plan

  variables {
    deadlines = { launch_hook = 600 }
  }

  expect_failures = [var.deadlines]
}

run "spot_margin_beyond_the_notice" {
  command = plan

  variables {
    deadlines = { spot_margin = 180 }
  }

  expect_failures = [var.deadlines]
}

run "max_below_min" {
  command = plan

  variables {
    min_size = 5
    max_size = 4
  }

  expect_failures = [var.max_size]
}

run "no_gpu" {
  command = plan

  variables {
    instance_types = ["m7i.large"]
  }

  expect_failures = [var.instance_types]
}

run "arm" {
  command = plan

  variables {
    instance_types = ["g5g.xlarge"]
  }

  expect_failures = [var.instance_types]
}

run "secret_by_value" {
  command = plan

  variables {
    secrets = { WEBHOOK_SECRET = "whsec_c2VjcmV0" }
  }

  expect_failures = [var.secrets]
}

run "unknown_secret" {
  command = plan

  variables {
    secrets = { DATABASE_URL = "arn:aws:ssm:eu-central-1:123456789012:parameter/db" }
  }

  expect_failures = [var.secrets]
}

run "secret_in_environment" {
  command = plan

  variables {
    environment = { HF_TOKEN = "hf_secret" }
  }

  expect_failures = [var.environment]
}

run "trace_headers_in_environment" {
  command = plan

  variables {
    environment = { OTEL_EXPORTER_OTLP_HEADERS = "authorization=key" }
  }

  expect_failures = [var.environment]
}

run "webhook_secret_in_environment" {
  command = plan

  variables {
    environment = { WEBHOOK_SECRET = "whsec_c2VjcmV0" }
  }

  expect_failures = [var.environment]
}

run "setting_of_the_module" {
  command = plan

  variables {
    environment = { TRANSCRIPTD_QUEUE_URL = "https://sqs.example" }
  }

  expect_failures = [var.environment]
}

run "multi_line_setting" {
  command = plan

  variables {
    environment = { TRANSCRIPTD_MODEL = "a\nb" }
  }

  expect_failures = [var.environment]
}

run "endpoints_without_routes" {
  command = plan

  variables {
    create_vpc_endpoints = true
    models_from          = "s3://models/transcriptd"
  }

  expect_failures = [var.route_table_ids]
}

run "prefix_without_slash" {
  command = plan

  variables {
    output_prefix = "transcripts"
  }

  expect_failures = [var.output_prefix]
}

run "bucket_as_url" {
  command = plan

  variables {
    output_bucket = "s3://results"
  }

  expect_failures = [var.output_bucket]
}

run "release_with_wildcard" {
  command = plan

  variables {
    release_key = "transcriptd/*.tar.gz"
  }

  expect_failures = [var.release_key]
}

run "short_checksum" {
  command = plan

  variables {
    release_sha256 = "abc"
  }

  expect_failures = [var.release_sha256]
}

run "hub_without_a_way_out" {
  command = plan

  variables {
    create_vpc_endpoints = true
    route_table_ids      = ["rtb-0aaaaaaaaaaaaaaaa"]
  }

  expect_failures = [var.models_from]
}

run "hub_with_egress_closed" {
  command = plan

  variables {
    egress_cidr_blocks = []
  }

  expect_failures = [var.models_from]
}

run "hub_that_is_forbidden" {
  command = plan

  variables {
    environment = { HF_HUB_OFFLINE = "1" }
  }

  expect_failures = [var.models_from]
}

run "gated_diarization_without_a_token" {
  command = plan

  variables {
    environment = { TRANSCRIPTD_DIARIZATION_MODEL = "pyannote/speaker-diarization-community-1" }
  }

  expect_failures = [var.models_from]
}

run "webhooks_without_a_secret" {
  command = plan

  variables {
    environment = { WEBHOOK_URL = "https://app.example.com/hooks" }
  }

  expect_failures = [var.environment]
}

run "webhook_hosts_without_a_secret" {
  command = plan

  variables {
    environment = { TRANSCRIPTD_WEBHOOK_HOSTS = "app.example.com" }
  }

  expect_failures = [var.environment]
}

run "event_bus_without_a_secret" {
  command = plan

  variables {
    event_bus_arn = "arn:aws:events:eu-central-1:123456789012:event-bus/jobs"
  }

  expect_failures = [var.event_bus_arn]
}

run "event_bus_by_name" {
  command = plan

  variables {
    event_bus_arn = "jobs"
    secrets       = { WEBHOOK_SECRET = "arn:aws:ssm:eu-central-1:123456789012:parameter/webhook" }
  }

  expect_failures = [var.event_bus_arn]
}

run "event_bus_in_environment" {
  command = plan

  variables {
    environment = { TRANSCRIPTD_EVENT_BUS = "jobs" }
  }

  expect_failures = [var.environment]
}

run "webhooks_in_the_clear" {
  command = plan

  variables {
    environment = { WEBHOOK_URL = "http://app.example.com/hooks" }
    secrets     = { WEBHOOK_SECRET = "arn:aws:ssm:eu-central-1:123456789012:parameter/webhook" }
  }

  expect_failures = [var.environment]
}

run "models_from_the_web" {
  command = plan

  variables {
    models_from = "https://example.com/models"
  }

  expect_failures = [var.models_from]
}

run "volume_faster_than_there_is" {
  command = plan

  variables {
    root_volume_initialization_mib_per_second = 1000
  }

  expect_failures = [var.root_volume_initialization_mib_per_second]
}

run "topic_by_name" {
  command = plan

  variables {
    alarm_topic_arns = ["alarms"]
  }

  expect_failures = [var.alarm_topic_arns]
}

run "no_subnet" {
  command = plan

  variables {
    subnet_ids = []
  }

  expect_failures = [var.subnet_ids]
}

run "impatience" {
  command = plan

  variables {
    acceptable_wait_seconds = 10
  }

  expect_failures = [var.acceptable_wait_seconds]
}

run "not_a_block" {
  command = plan

  variables {
    egress_cidr_blocks = ["everywhere"]
  }

  expect_failures = [var.egress_cidr_blocks]
}

run "a_limit_per_tenant_that_sqs_would_end" {
  command = plan

  variables {
    environment = { TRANSCRIPTD_MAX_JOBS_PER_TENANT = "2" }
  }

  expect_failures = [var.max_receive_count]
}

run "recordings_among_the_results" {
  command = plan

  variables {
    input_buckets      = ["media"]
    output_bucket      = "media"
    recording_prefixes = [{ prefix = "trans" }]
  }

  expect_failures = [var.recording_prefixes]
}

run "recordings_of_an_unknown_bucket" {
  command = plan

  variables {
    recording_prefixes = [{ bucket = "media", prefix = "calls/" }]
  }

  expect_failures = [var.recording_prefixes]
}

run "recordings_without_a_prefix" {
  command = plan

  variables {
    recording_prefixes = [{ prefix = "" }]
  }

  expect_failures = [var.recording_prefixes]
}

run "profiles_too_long_for_user_data" {
  command = plan

  variables {
    profiles = format("%9000s", "#")
  }

  expect_failures = [var.profiles]
}

run "queues_without_names_of_their_own" {
  command = plan

  variables {
    queues = [{ name = "batch" }, { name = "batch" }]
  }

  expect_failures = [var.queues]
}

run "queue_with_the_name_of_a_dead_letter_queue" {
  command = plan

  variables {
    queues = [{ name = "batch" }, { name = "batch-dlq" }]
  }

  expect_failures = [var.queues]
}

run "weight_of_one_queue_only" {
  command = plan

  variables {
    queues = [{ name = "interactive", weight = 3 }, { name = "batch" }]
  }

  expect_failures = [var.queues]
}
