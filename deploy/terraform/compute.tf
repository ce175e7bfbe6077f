# --- Instance ---------------------------------------------------------------------------------------------------------

data "aws_ssm_parameter" "ami" {
  count = var.ami_id == null ? 1 : 0

  name = var.ami_ssm_parameter
}

locals {
  # Read at plan time instead of `resolve:ssm:` at launch, so that a new AMI appears in the plan and rolls the fleet.
  ami_id = var.ami_id == null ? data.aws_ssm_parameter.ami[0].insecure_value : var.ami_id

  launch_hook      = "${var.name}-launch"
  termination_hook = "${var.name}-termination"

  # Settings for completing the hooks, noticing interruptions and terminating when idle.
  host_settings = {
    TRANSCRIPTD_HOST              = "ec2"
    TRANSCRIPTD_AUTOSCALING_GROUP = var.name
    TRANSCRIPTD_LAUNCH_HOOK       = local.launch_hook
    TRANSCRIPTD_TERMINATION_HOOK  = local.termination_hook
    TRANSCRIPTD_IDLE_EXIT_SECONDS = tostring(var.idle_exit_minutes * 60)
  }

  default_model = "large-v3" # the daemon's own default of TRANSCRIPTD_MODEL

  # docs/configuration.md
  settings = merge(
    {
      AWS_REGION                     = local.region
      TRANSCRIPTD_OUTBOX_URL         = aws_sqs_queue.this["outbox"].id
      TRANSCRIPTD_INPUT_BUCKETS      = join(",", local.input_buckets)
      TRANSCRIPTD_OUTPUT_BUCKET      = local.output_bucket
      TRANSCRIPTD_OUTPUT_PREFIX      = var.output_prefix
      TRANSCRIPTD_SCRATCH_DIR        = "/var/lib/transcriptd/scratch"
      TRANSCRIPTD_MAX_JOBS_IN_FLIGHT = tostring(var.max_jobs_in_flight)
      TRANSCRIPTD_HTTP_HOST          = length(var.metrics_source_security_group_ids) > 0 ? "0.0.0.0" : "127.0.0.1"
      TRANSCRIPTD_HTTP_PORT          = tostring(local.http_port)
      TRANSCRIPTD_CHECKPOINT_TAG     = "${local.checkpoint_tag.key}=${local.checkpoint_tag.value}"
      # Jobs may request only models that the instances have fetched and verified; others are rejected at once.
      TRANSCRIPTD_MODELS = lookup(var.environment, "TRANSCRIPTD_MODEL", local.default_model)
    },
    local.host_settings,
    local.queue_settings,
    local.deadline_settings,
    var.event_bus_arn == null ? {} : { TRANSCRIPTD_EVENT_BUS = var.event_bus_arn },
    var.profiles == null ? {} : { TRANSCRIPTD_PROFILES = "/etc/transcriptd/profiles.toml" },
    var.environment,
  )

  user_data = templatefile("${path.module}/templates/user-data.sh.tftpl", {
    region               = local.region
    group_name           = var.name
    launch_hook          = local.launch_hook
    stop_timeout_seconds = var.deadlines.stop
    release_uri          = "s3://${var.release_bucket}/${var.release_key}"
    release_sha256       = var.release_sha256
    models_from          = var.models_from
    secrets              = var.secrets
    profiles             = var.profiles == null ? "" : var.profiles
    # In systemd's EnvironmentFile, a backslash escapes inside double quotes.
    settings = { for key, value in local.settings : key => replace(replace(value, "\\", "\\\\"), "\"", "\\\"") }
  })
}

resource "aws_launch_template" "this" {
  name_prefix            = "${var.name}-"
  description            = "transcriptd ${var.release_key}"
  image_id               = local.ami_id
  update_default_version = true
  user_data              = base64encode(local.user_data)

  instance_initiated_shutdown_behavior = "terminate"
  vpc_security_group_ids               = [aws_security_group.instance.id]

  iam_instance_profile {
    arn = aws_iam_instance_profile.instance.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  monitoring {
    enabled = true
  }

  block_device_mappings {
    device_name = var.root_device_name

    ebs {
      volume_type           = "gp3"
      volume_size           = var.root_volume_gib
      throughput            = 500 # models are read from this volume at every start
      encrypted             = true
      kms_key_id            = var.kms_key_arn
      delete_on_termination = true

      volume_initialization_rate = var.root_volume_initialization_mib_per_second
    }
  }

  dynamic "block_device_mappings" {
    for_each = var.scratch_volume_gib > 0 ? [var.scratch_volume_gib] : []

    content {
      device_name = "/dev/sdf"

      ebs {
        volume_type           = "gp3"
        volume_size           = block_device_mappings.value
        encrypted             = true
        kms_key_id            = var.kms_key_arn
        delete_on_termination = true
      }
    }
  }

  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume"])

    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = var.name })
    }
  }

  tags = local.tags

  lifecycle {
    create_before_destroy = true
  }
}

# --- The fleet --------------------------------------------------------------------------------------------------------

locals {
  hooks = {
    (local.launch_hook) = {
      transition = "autoscaling:EC2_INSTANCE_LAUNCHING", default_result = "ABANDON", timeout_seconds = var.deadlines.launch_hook
    }
    (local.termination_hook) = {
      transition = "autoscaling:EC2_INSTANCE_TERMINATING", default_result = "CONTINUE", timeout_seconds = var.deadlines.termination_hook
    }
  }
}

resource "aws_autoscaling_group" "this" {
  name                = var.name
  min_size            = var.min_size
  max_size            = var.max_size
  vpc_zone_identifier = var.subnet_ids

  protect_from_scale_in     = true # an instance terminates itself when idle; only its daemon knows that it is
  capacity_rebalance        = true
  suspended_processes       = ["AZRebalance"] # it terminates busy instances to rebalance zones
  health_check_type         = "EC2"
  health_check_grace_period = 0
  default_instance_warmup   = 60 # the launch hook already waited for the models; metrics follow a minute later
  wait_for_capacity_timeout = "0"
  metrics_granularity       = "1Minute"
  enabled_metrics = [
    "GroupDesiredCapacity", "GroupInServiceInstances", "GroupMaxSize", "GroupPendingInstances",
    "GroupTerminatingInstances", "GroupTotalInstances",
  ]

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = var.on_demand_base_capacity
      on_demand_percentage_above_base_capacity = var.on_demand_percentage_above_base
      on_demand_allocation_strategy            = "prioritized"
      spot_allocation_strategy                 = "price-capacity-optimized"
    }

    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.this.id
        version            = aws_launch_template.this.latest_version
      }

      dynamic "override" {
        for_each = var.instance_types

        content {
          instance_type = override.value
        }
      }
    }
  }

  # Needed twice: initial hooks cover the first instances, the resources below all later changes.
  dynamic "initial_lifecycle_hook" {
    for_each = local.hooks

    content {
      name                 = initial_lifecycle_hook.key
      lifecycle_transition = initial_lifecycle_hook.value.transition
      default_result       = initial_lifecycle_hook.value.default_result
      heartbeat_timeout    = initial_lifecycle_hook.value.timeout_seconds
    }
  }

  instance_refresh {
    strategy = "Rolling"

    preferences {
      # All instances are protected. `Refresh` replaces them anyway, through the termination hook, so daemons drain.
      scale_in_protected_instances = "Refresh"
      min_healthy_percentage       = 50
      skip_matching                = true
    }
  }

  dynamic "tag" {
    for_each = merge(local.tags, { Name = var.name })

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = false # the launch template tags instances and volumes
    }
  }

  lifecycle {
    ignore_changes = [desired_capacity] # managed by scaling
  }

  depends_on = [aws_iam_role_policy.instance] # without permissions an instance abandons its launch
}

resource "aws_autoscaling_lifecycle_hook" "this" {
  for_each = local.hooks

  name                   = each.key
  autoscaling_group_name = aws_autoscaling_group.this.name
  lifecycle_transition   = each.value.transition
  default_result         = each.value.default_result
  heartbeat_timeout      = each.value.timeout_seconds
}
