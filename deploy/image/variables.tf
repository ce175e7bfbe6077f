variable "name" {
  description = "Prefix of every resource, and the name that images begin with."
  type        = string
  default     = "transcriptd-image"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,40}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 42 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "tags" {
  description = "Tags for every resource and image."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.tags) <= 40
    error_message = "AWS allows 50 tags for a resource, a few of which are set here."
  }
}

variable "subnet_id" {
  description = "Subnet of the build instance; it needs a way to S3, Systems Manager and, with models_from = \"hub\" or a release without wheels, the internet."
  type        = string

  validation {
    condition     = can(regex("^subnet-[0-9a-f]+$", var.subnet_id))
    error_message = "subnet_id must be a subnet's id."
  }
}

variable "vpc_id" {
  description = "VPC of the subnet."
  type        = string

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id must be a VPC's id."
  }
}

variable "instance_types" {
  description = "Types for the build, first choice first. No GPU is needed: nothing is run on it."
  type        = list(string)
  default     = ["m7i.xlarge", "m6i.xlarge"]
  nullable    = false

  validation {
    condition     = length(var.instance_types) > 0
    error_message = "instance_types must name at least one type."
  }
}

variable "parent_ami_ssm_parameter" {
  description = "SSM parameter that names the AMI to build on, read at plan time: with NVIDIA driver, systemd, AWS CLI and SSM Agent, as deploy/terraform wants it."
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
    error_message = "root_device_name must begin with /dev/."
  }
}

variable "root_volume_gib" {
  description = "Size of the image: the AMI alone takes most of 65 GiB, large-v3 with diarization and alignment 6 more, Python's packages 8."
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = var.root_volume_gib >= 75 && var.root_volume_gib <= 16384
    error_message = "root_volume_gib must be from 75 to 16384."
  }
}

variable "kms_key_arn" {
  description = "Customer managed KMS key for the image. null: the account's key for EBS."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a KMS key."
  }
}

variable "release_bucket" {
  description = "Bucket with the release archive of deploy/release.sh."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.release_bucket))
    error_message = "release_bucket must be a bucket's name."
  }
}

variable "release_key" {
  description = "Key of the release archive. It names the version, and a new one makes a new recipe."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._/-]*\\.tar\\.gz$", var.release_key))
    error_message = "release_key must be the key of a .tar.gz, of letters, digits and ._/- alone."
  }
}

variable "release_sha256" {
  description = "SHA-256 of the release archive in hex, as deploy/release.sh prints it; a build whose copy differs fails."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.release_sha256))
    error_message = "release_sha256 must be 64 lower-case hex digits."
  }
}

variable "release_version" {
  description = "Version of the component and the recipe. Image Builder never changes one: raise it with each change of the release, the models or the settings."
  type        = string

  validation {
    condition     = can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", var.release_version))
    error_message = "release_version must be three numbers with dots."
  }
}

variable "models_from" {
  description = "Where the models in the image come from: s3://bucket/prefix of a mirror made with `transcriptd models mirror`, or hub where none of them is gated (diarize = false)."
  type        = string

  validation {
    condition     = var.models_from == "hub" || can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]+)?$", var.models_from))
    error_message = "models_from must be hub or s3://bucket/prefix."
  }
}

variable "settings" {
  description = "The settings of the fleet that say which models it needs (TRANSCRIPTD_MODEL, TRANSCRIPTD_ALIGNMENT_MODELS, …). They choose what is fetched and do not stay in the image."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for key, value in var.settings : can(regex("^TRANSCRIPTD_[A-Z_]+$", key)) && can(regex("^[A-Za-z0-9._:/,=@+ -]*$", value))])
    error_message = "settings are TRANSCRIPTD_ variables with plain values; secrets do not belong into an image."
  }
}

variable "schedule" {
  description = "Cron expression for builds on a new parent AMI (its driver and its security updates), such as cron(0 3 ? * mon *). null: only when you start one."
  type        = string
  default     = null

  validation {
    condition     = var.schedule == null || can(regex("^(cron|rate)\\(.+\\)$", var.schedule))
    error_message = "schedule must be cron(…) or rate(…)."
  }
}
