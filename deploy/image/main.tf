# An AMI with release, Python packages, model weights and unit. A new instance only writes its settings and starts.
# EC2 Image Builder builds it; the module changes nothing else in the account.

data "aws_partition" "current" {}
data "aws_region" "current" {}
data "aws_caller_identity" "current" {}

data "aws_ssm_parameter" "parent" {
  name = var.parent_ami_ssm_parameter
}

locals {
  partition   = data.aws_partition.current.partition
  region      = data.aws_region.current.region
  account_id  = data.aws_caller_identity.current.account_id
  tags        = merge({ Application = "transcriptd" }, var.tags)
  from_mirror = startswith(var.models_from, "s3://")
  mirror      = trimsuffix(trimprefix(var.models_from, "s3://"), "/")
}

# --- Build steps ------------------------------------------------------------------------------------------------------

resource "aws_imagebuilder_component" "install" {
  name       = var.name
  platform   = "Linux"
  version    = var.release_version
  kms_key_id = var.kms_key_arn
  tags       = local.tags
  data = templatefile("${path.module}/templates/component.yaml.tftpl", {
    release_uri    = "s3://${var.release_bucket}/${var.release_key}"
    release_sha256 = var.release_sha256
    models_from    = var.models_from
    settings       = var.settings
  })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_imagebuilder_image_recipe" "this" {
  name         = var.name
  version      = var.release_version
  parent_image = data.aws_ssm_parameter.parent.insecure_value
  tags         = local.tags

  component {
    component_arn = aws_imagebuilder_component.install.arn
  }

  block_device_mapping {
    device_name = var.root_device_name

    ebs {
      volume_type           = "gp3"
      volume_size           = var.root_volume_gib
      throughput            = 500
      encrypted             = true
      kms_key_id            = var.kms_key_arn
      delete_on_termination = true
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

# --- Infrastructure ---------------------------------------------------------------------------------------------------

resource "aws_security_group" "build" {
  name        = var.name
  description = "Build instance of the transcriptd image: no ingress"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = var.name })
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.build.id
  description       = "S3, Systems Manager, package index, model hub"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
  tags              = local.tags
}

resource "aws_imagebuilder_infrastructure_configuration" "this" {
  name                          = var.name
  instance_profile_name         = aws_iam_instance_profile.build.name
  instance_types                = var.instance_types
  subnet_id                     = var.subnet_id
  security_group_ids            = [aws_security_group.build.id]
  terminate_instance_on_failure = true
  tags                          = local.tags
  resource_tags                 = local.tags

  instance_metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}

resource "aws_imagebuilder_distribution_configuration" "this" {
  name = var.name
  tags = local.tags

  distribution {
    region = local.region

    ami_distribution_configuration {
      name        = "${var.name}-{{ imagebuilder:buildDate }}"
      description = "transcriptd ${var.release_key}"
      kms_key_id  = var.kms_key_arn
      ami_tags    = merge(local.tags, { Release = var.release_key })
    }
  }
}

resource "aws_imagebuilder_image_pipeline" "this" {
  name                             = var.name
  description                      = "transcriptd ${var.release_version}"
  image_recipe_arn                 = aws_imagebuilder_image_recipe.this.arn
  infrastructure_configuration_arn = aws_imagebuilder_infrastructure_configuration.this.arn
  distribution_configuration_arn   = aws_imagebuilder_distribution_configuration.this.arn
  enhanced_image_metadata_enabled  = true
  tags                             = local.tags

  dynamic "schedule" {
    for_each = var.schedule == null ? [] : [var.schedule]

    content {
      schedule_expression                = schedule.value
      pipeline_execution_start_condition = "EXPRESSION_MATCH_AND_DEPENDENCY_UPDATES_AVAILABLE"
    }
  }
}

# --- Permissions of the build instance --------------------------------------------------------------------------------

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.${data.aws_partition.current.dns_suffix}"]
    }
  }
}

data "aws_iam_policy_document" "build" {
  statement {
    sid     = "Read"
    actions = ["s3:GetObject"]
    resources = concat(
      ["arn:${local.partition}:s3:::${var.release_bucket}/${var.release_key}"],
      local.from_mirror ? ["arn:${local.partition}:s3:::${local.mirror}/*"] : [],
    )
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "build" {
  name               = var.name
  description        = "Build instance of the transcriptd image"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = local.tags
}

resource "aws_iam_role_policy" "build" {
  name   = "read"
  role   = aws_iam_role.build.id
  policy = data.aws_iam_policy_document.build.json
}

# Required by Image Builder on the instance, according to AWS:
# https://docs.aws.amazon.com/imagebuilder/latest/userguide/image-builder-setting-up.html
resource "aws_iam_role_policy_attachment" "build" {
  for_each = toset(["AmazonSSMManagedInstanceCore", "EC2InstanceProfileForImageBuilder"])

  role       = aws_iam_role.build.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

resource "aws_iam_instance_profile" "build" {
  name = var.name
  role = aws_iam_role.build.name
  tags = local.tags
}
