variable "name" {
  description = "Prefix of all resources and image names."
  type        = string
  default     = "transcriptd-image"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,40}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 42 lower-case letters, digits and hyphens, and start with a letter."
  }
}

variable "tags" {
  description = "Tags for every resource and image."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.tags) <= 40
    error_message = "AWS allows 50 tags per resource, and this module sets a few of them."
  }
}

variable "subnet_id" {
  description = "Subnet of the build instance. It needs access to S3, Systems Manager and, with models_from = \"hub\" or a release without wheels, the internet."
  type        = string

  validation {
    condition     = can(regex("^subnet-[0-9a-f]+$", var.subnet_id))
    error_message = "subnet_id must be a subnet ID."
  }
}

variable "vpc_id" {
  description = "VPC of the subnet."
  type        = string

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id must be a VPC ID."
  }
}

variable "instance_types" {
  description = "Instance types for the build, in order of preference. The build needs no GPU."
  type        = list(string)
  default     = ["m7i.xlarge", "m6i.xlarge"]
  nullable    = false

  validation {
    condition     = length(var.instance_types) > 0
    error_message = "instance_types must name at least one type."
  }
}

variable "parent_ami_ssm_parameter" {
  description = "SSM parameter with the ID of the parent AMI, read at plan time. The AMI needs NVIDIA driver, systemd, AWS CLI and SSM Agent, as in deploy/terraform."
  type        = string
  default     = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
  nullable    = false

  validation {
    condition     = startswith(var.parent_ami_ssm_parameter, "/")
    error_message = "parent_ami_ssm_parameter must be a parameter's path."
  }
}

variable "root_device_name" {
  description = "Root device of the AMI: /dev/sda1 on Ubuntu, /dev/xvda on Amazon Linux."
  type        = string
  default     = "/dev/sda1"
  nullable    = false

  validation {
    condition     = startswith(var.root_device_name, "/dev/")
    error_message = "root_device_name must start with /dev/."
  }
}

variable "root_volume_gib" {
  description = "Size of the image. The parent AMI uses most of 65 GiB, large-v3 with diarization and alignment 6 GiB, Python packages 8 GiB."
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = var.root_volume_gib >= 75 && var.root_volume_gib <= 16384
    error_message = "root_volume_gib must be from 75 to 16384."
  }
}

variable "kms_key_arn" {
  description = "Customer managed KMS key for the image. null: the account's default EBS key."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key."
  }
}

variable "release_bucket" {
  description = "Bucket with the release archive made by deploy/release.sh."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.release_bucket))
    error_message = "release_bucket must be a bucket name."
  }
}

variable "release_key" {
  description = "Key of the release archive. Include the version; a new key creates a new recipe."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._/-]*\\.tar\\.gz$", var.release_key))
    error_message = "release_key must be the key of a .tar.gz and contain only letters, digits and ._/-."
  }
}

variable "release_sha256" {
  description = "SHA-256 of the release archive in hex, as printed by deploy/release.sh. A build whose download differs fails."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.release_sha256))
    error_message = "release_sha256 must be 64 lower-case hex digits."
  }
}

variable "release_version" {
  description = "Version of the component and the recipe. Image Builder versions are immutable: raise it with each change of the release, the models or the settings."
  type        = string

  validation {
    condition     = can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", var.release_version))
    error_message = "release_version must be three numbers separated by dots."
  }
}

variable "models_from" {
  description = "Source of the model weights: s3://bucket/prefix of a mirror made with `transcriptd models mirror`, or hub if no model is gated (diarize = false)."
  type        = string

  validation {
    condition     = var.models_from == "hub" || can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]+)?$", var.models_from))
    error_message = "models_from must be hub or s3://bucket/prefix."
  }
}

variable "settings" {
  description = "Settings of the fleet that determine its models (TRANSCRIPTD_MODEL, TRANSCRIPTD_ALIGNMENT_MODELS, …). They select the models to fetch and do not remain in the image."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for key, value in var.settings : can(regex("^TRANSCRIPTD_[A-Z_]+$", key)) && can(regex("^[A-Za-z0-9._:/,=@+ -]*$", value))])
    error_message = "settings must be TRANSCRIPTD_ variables with plain values; an image must not contain secrets."
  }
}

variable "schedule" {
  description = "Cron expression for builds on a new parent AMI (with its driver and security updates), such as cron(0 3 ? * mon *). null: only manual builds."
  type        = string
  default     = null

  validation {
    condition     = var.schedule == null || can(regex("^(cron|rate)\\(.+\\)$", var.schedule))
    error_message = "schedule must be cron(…) or rate(…)."
  }
}
