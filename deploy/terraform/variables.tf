# --- General ----------------------------------------------------------------------------------------------------------

variable "name" {
  description = "Name of this deployment. Prefix of all resources, including created buckets."
  type        = string
  default     = "transcriptd"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,26}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 28 characters: lower-case letters, digits and hyphens, starting with a letter. Bucket names contain it."
  }
}

variable "tags" {
  description = "Tags for every resource."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = !anytrue([for key in keys(var.tags) : startswith(lower(key), "aws:")])
    error_message = "tags must not start with aws:, which is reserved."
  }
}

variable "kms_key_arn" {
  description = "Customer managed KMS key for queues, created buckets and volumes. null: AWS managed keys. README.md lists what the key policy must allow."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key (arn:…:key/…), not of an alias: IAM does not resolve aliases."
  }
}

# --- Network ----------------------------------------------------------------------------------------------------------

variable "vpc_id" {
  description = "VPC of the instances."
  type        = string

  validation {
    condition     = startswith(var.vpc_id, "vpc-")
    error_message = "vpc_id must look like vpc-0123456789abcdef0."
  }
}

variable "subnet_ids" {
  description = "Private subnets of the instances. Use several zones: GPU capacity differs between zones."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) > 0 && alltrue([for id in var.subnet_ids : startswith(id, "subnet-")])
    error_message = "subnet_ids must contain at least one subnet, each like subnet-0123456789abcdef0."
  }
}

variable "egress_cidr_blocks" {
  description = "CIDR blocks that instances may connect to, on port 443 only: AWS, webhook receivers, model hubs. null: anywhere, or only the VPC endpoints with create_vpc_endpoints."
  type        = list(string)
  default     = null

  validation {
    condition     = var.egress_cidr_blocks == null || alltrue([for block in coalesce(var.egress_cidr_blocks, []) : can(cidrhost(block, 0))])
    error_message = "egress_cidr_blocks must be CIDR blocks such as 10.0.0.0/8 or 2001:db8::/32."
  }
}

variable "egress_prefix_list_ids" {
  description = "Prefix lists that instances may connect to on port 443, such as the one of an existing S3 gateway endpoint."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.egress_prefix_list_ids : startswith(id, "pl-")])
    error_message = "egress_prefix_list_ids must look like pl-0123456789abcdef0."
  }
}

variable "metrics_source_security_group_ids" {
  description = "Security groups that may scrape /metrics. Empty: the port listens on loopback only, and nothing may connect."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.metrics_source_security_group_ids : startswith(id, "sg-")])
    error_message = "metrics_source_security_group_ids must look like sg-0123456789abcdef0."
  }
}

variable "create_vpc_endpoints" {
  description = "Create VPC endpoints for all AWS services that instances call, so that the subnets need no internet access."
  type        = bool
  default     = false
  nullable    = false
}

variable "route_table_ids" {
  description = "Route tables of the subnets, for the S3 gateway endpoint. Required with create_vpc_endpoints."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = !var.create_vpc_endpoints || length(var.route_table_ids) > 0
    error_message = "create_vpc_endpoints requires route_table_ids: without a route to its gateway endpoint, S3 is unreachable."
  }
}

# --- Queues -----------------------------------------------------------------------------------------------------------

variable "queues" {
  description = <<-EOT
    Job queues, the most urgent one first. Each has its own dead-letter queue NAME-dlq and alarms.
      name                          part of the queue's name, and the daemon's name for it
      weight                        share of the devices; without weights, priority is strict: a queue is served while those before it are empty
      visibility                    lease of its messages in seconds; null: deadlines.visibility
      oldest_message_alarm_seconds  null: the variable of the same name
  EOT
  type = list(object({
    name                         = string
    weight                       = optional(number)
    visibility                   = optional(number)
    oldest_message_alarm_seconds = optional(number)
  }))
  default  = [{ name = "jobs" }]
  nullable = false

  validation {
    condition     = length(var.queues) > 0 && length(distinct(var.queues[*].name)) == length(var.queues) && alltrue([for queue in var.queues : can(regex("^[a-z][a-z0-9_-]{0,31}$", queue.name)) && !startswith(queue.name, "outbox") && !endswith(queue.name, "-dlq")])
    error_message = "queues must have at least one queue with different names: lower-case letters, digits, - and _, at most 32, starting with a letter; not outbox…, not …-dlq."
  }

  validation {
    condition     = alltrue([for queue in var.queues : queue.weight == null]) || alltrue([for queue in var.queues : try(queue.weight > 0 && queue.weight <= 1000, false)])
    error_message = "queues must have a weight above 0, at most 1000, for each queue or for none."
  }

  validation {
    condition     = alltrue([for queue in var.queues : queue.visibility == null ? true : queue.visibility >= 3 * var.deadlines.heartbeat && queue.visibility <= 43200])
    error_message = "queues: visibility must be from three times deadlines.heartbeat to 43200 seconds."
  }

  validation {
    condition     = alltrue([for queue in var.queues : queue.oldest_message_alarm_seconds == null ? true : queue.oldest_message_alarm_seconds >= 60])
    error_message = "queues: oldest_message_alarm_seconds must be at least 60."
  }

  validation {
    condition     = length(var.queues) <= var.max_jobs_in_flight
    error_message = "queues must not be more than max_jobs_in_flight: the daemon keeps a place for each."
  }
}

variable "max_receive_count" {
  description = "Number of receives after which SQS moves a message to the dead-letter queue. This is a backstop: drains and Spot losses count too, so keep it well above the daemon's TRANSCRIPTD_MAX_ATTEMPTS."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.max_receive_count >= 10 && var.max_receive_count <= 1000 && floor(var.max_receive_count) == var.max_receive_count
    error_message = "max_receive_count must be a whole number from 10 to 1000: interrupted jobs are received more often than they are attempted."
  }

  validation {
    condition     = lookup(var.environment, "TRANSCRIPTD_MAX_JOBS_PER_TENANT", "0") == "0" || var.max_receive_count >= 100
    error_message = "TRANSCRIPTD_MAX_JOBS_PER_TENANT needs a max_receive_count of 100 or more: SQS counts each time that a message is returned."
  }
}

variable "message_retention_seconds" {
  description = "How long the queue keeps a waiting job. Must be less than the 14 days of the dead-letter queues, because a moved message keeps its age."
  type        = number
  default     = 345600
  nullable    = false

  validation {
    condition     = var.message_retention_seconds >= 86400 && var.message_retention_seconds <= 1036800
    error_message = "message_retention_seconds must be from 86400 (1 day) to 1036800 (12 days), below the 14 days of the dead-letter queue."
  }
}

# --- Buckets ----------------------------------------------------------------------------------------------------------

variable "input_buckets" {
  description = "Existing buckets that jobs may read recordings from. Empty: the module creates one."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for name in var.input_buckets : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", name))])
    error_message = "input_buckets must be bucket names, without s3:// and without a prefix."
  }
}

variable "output_bucket" {
  description = "Existing bucket for results. null: the module creates one."
  type        = string
  default     = null

  validation {
    condition     = var.output_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.output_bucket))
    error_message = "output_bucket must be the name of a bucket, without s3:// and without a prefix."
  }
}

variable "output_prefix" {
  description = "Key prefix of results. Instances may write only below it."
  type        = string
  default     = "transcripts/"
  nullable    = false

  validation {
    condition     = can(regex("^([A-Za-z0-9!_.'()-]+/)+$", var.output_prefix))
    error_message = "output_prefix must end with a slash and not start with one, such as transcripts/."
  }
}

variable "recording_prefixes" {
  description = "Key prefixes whose new objects become jobs, each in a bucket of input_buckets; null is the first, or the created one. An existing bucket must send its events to EventBridge."
  type        = list(object({ bucket = optional(string), prefix = string }))
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for each in var.recording_prefixes : can(regex("^[^/*?][^*?]*$", each.prefix)) && length(each.prefix) <= 512])
    error_message = "recording_prefixes need a prefix, such as recordings/, without a leading slash and without wildcards."
  }

  validation {
    condition     = alltrue([for each in var.recording_prefixes : each.bucket == null || contains(var.input_buckets, coalesce(each.bucket, "-"))])
    error_message = "recording_prefixes may name only buckets of input_buckets."
  }

  validation {
    condition     = alltrue([for each in var.recording_prefixes : !startswith(each.prefix, var.output_prefix) && !startswith(var.output_prefix, each.prefix) || var.output_bucket == null || coalesce(each.bucket, concat(var.input_buckets, ["-"])[0]) != var.output_bucket])
    error_message = "recording_prefixes must not overlap with output_prefix in the output bucket: results are no recordings."
  }
}

variable "profiles" {
  description = "Content of the TOML file TRANSCRIPTD_PROFILES: options of jobs by prefix or name (docs/publishing.md). null: none."
  type        = string
  default     = null

  validation {
    condition     = var.profiles == null || length(coalesce(var.profiles, "-")) <= 8192 && !can(regex("(?m)^TRANSCRIPTD_PROFILES$", coalesce(var.profiles, "-")))
    error_message = "profiles must be at most 8192 characters: user data is limited to 16 KB."
  }
}

variable "bucket_kms_key_arns" {
  description = "KMS keys of existing buckets, if they differ from kms_key_arn."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.bucket_kms_key_arns : can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", arn))])
    error_message = "bucket_kms_key_arns must be ARNs of keys (arn:…:key/…)."
  }
}

variable "bucket_versioning" {
  description = "Keep overwritten and deleted objects in created buckets for noncurrent_version_days."
  type        = bool
  default     = true
  nullable    = false
}

variable "noncurrent_version_days" {
  description = "Days until overwritten and deleted object versions expire from created buckets."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.noncurrent_version_days >= 1
    error_message = "noncurrent_version_days must be at least 1."
  }
}

variable "checkpoint_days" {
  description = "Days until checkpoints of unfinished jobs expire from the created output bucket. Keep it at least as long as the dead-letter queue keeps messages, so that redriven jobs can continue from them."
  type        = number
  default     = 15
  nullable    = false

  validation {
    condition     = var.checkpoint_days >= 1
    error_message = "checkpoint_days must be at least 1."
  }
}

variable "recording_days" {
  description = "Days until recordings expire from the created input bucket. null: never."
  type        = number
  default     = null

  validation {
    condition     = var.recording_days == null || coalesce(var.recording_days, 1) >= 1
    error_message = "recording_days must be at least 1, or null."
  }
}

variable "result_days" {
  description = "Days until results expire from the created output bucket. null: never."
  type        = number
  default     = null

  validation {
    condition     = var.result_days == null || coalesce(var.result_days, 1) >= 1
    error_message = "result_days must be at least 1, or null."
  }
}

# --- Instances --------------------------------------------------------------------------------------------------------

variable "instance_types" {
  description = "x86 GPU instance types, in order of preference. More types find Spot capacity more often. Each needs enough GPU memory for the model: 10 GiB for large-v3 with diarization."
  type        = list(string)
  default     = ["g6.xlarge", "g5.xlarge", "g6.2xlarge", "g5.2xlarge", "g6e.xlarge"]
  nullable    = false

  validation {
    condition     = length(var.instance_types) >= 1 && length(var.instance_types) <= 40
    error_message = "instance_types must contain 1 to 40 types."
  }

  validation {
    condition     = alltrue([for type in var.instance_types : can(regex("^(g5|g6|g6e|gr6|p[4-6][a-z]*(-[a-z0-9]+)?)\\.[a-z0-9-]+$", type))])
    error_message = "instance_types must belong to the families g5, g6, g6e, gr6 or p4 to p6: x86 with an NVIDIA GPU that CUDA 13 supports."
  }
}

variable "ami_id" {
  description = "AMI with NVIDIA driver, systemd, AWS CLI and SSM Agent. null: the AMI that ami_ssm_parameter names."
  type        = string
  default     = null

  validation {
    condition     = var.ami_id == null || startswith(coalesce(var.ami_id, "ami-"), "ami-")
    error_message = "ami_id must look like ami-0123456789abcdef0."
  }
}

variable "ami_ssm_parameter" {
  description = "SSM parameter with the AMI ID, read at plan time. Default: AWS Deep Learning Base AMI, Ubuntu 24.04 (Python 3.12)."
  type        = string
  default     = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
  nullable    = false

  validation {
    condition     = startswith(var.ami_ssm_parameter, "/") || startswith(var.ami_ssm_parameter, "arn:")
    error_message = "ami_ssm_parameter must be a parameter's path or ARN."
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
  description = "Size of the encrypted gp3 root volume: system, virtual environment and model weights."
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = var.root_volume_gib >= 75 && var.root_volume_gib <= 16384
    error_message = "root_volume_gib must be from 75 to 16384: the AMI alone uses most of 65."
  }
}

variable "root_volume_initialization_mib_per_second" {
  description = "Rate at which EBS loads the AMI's snapshot into the root volume, 100 to 300. For AMIs that contain models, which are read in full at start-up. null: blocks load slowly, on first access."
  type        = number
  default     = null

  validation {
    condition     = var.root_volume_initialization_mib_per_second == null || try(var.root_volume_initialization_mib_per_second >= 100 && var.root_volume_initialization_mib_per_second <= 300, false)
    error_message = "root_volume_initialization_mib_per_second must be from 100 to 300, or null."
  }
}

variable "scratch_volume_gib" {
  description = "Size of an encrypted gp3 volume for scratch files, for types without instance store. 0: use the instance store, which g5, g6, g6e and p types have."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.scratch_volume_gib == 0 || (var.scratch_volume_gib >= 20 && var.scratch_volume_gib <= 16384)
    error_message = "scratch_volume_gib must be 0 or from 20 to 16384."
  }
}

variable "release_bucket" {
  description = "Bucket with the release archive."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.release_bucket))
    error_message = "release_bucket must be the name of a bucket, without s3:// and without a prefix."
  }
}

variable "release_key" {
  description = "Key of the release archive, a .tar.gz that contains deploy/install.sh. Include the version: a new key rolls the fleet."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9!_.'()/+-]+\\.tar\\.gz$", var.release_key))
    error_message = "release_key must end with .tar.gz and contain no spaces or wildcards."
  }
}

variable "release_sha256" {
  description = "SHA-256 of the release archive in hex, as printed by deploy/release.sh. An instance whose download differs abandons its launch, so that write access to the bucket is not root access to the fleet."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.release_sha256))
    error_message = "release_sha256 must be 64 lower-case hex digits."
  }
}

variable "models_from" {
  description = "Source of the model weights: hub, s3://bucket/prefix of a mirror made with `transcriptd models mirror`, or cached if the AMI contains them. Instances verify them at each boot."
  type        = string
  default     = "hub"
  nullable    = false

  validation {
    condition     = contains(["hub", "cached"], var.models_from) || can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]+)?$", var.models_from))
    error_message = "models_from must be hub, cached, or s3://bucket/prefix."
  }

  validation {
    condition     = var.models_from != "hub" || !(var.egress_cidr_blocks == null ? var.create_vpc_endpoints : length(var.egress_cidr_blocks) == 0) || length(var.egress_prefix_list_ids) > 0
    error_message = "models_from = \"hub\" needs internet access, and the instances have none: add egress_cidr_blocks, or use a mirror (s3://bucket/prefix) or the models of the AMI (cached)."
  }

  validation {
    condition     = var.models_from != "hub" || !contains(["1", "on", "true", "yes"], lower(lookup(var.environment, "HF_HUB_OFFLINE", "")))
    error_message = "models_from = \"hub\" and HF_HUB_OFFLINE in environment contradict each other: use a mirror (s3://bucket/prefix) or the models of the AMI (cached)."
  }

  validation {
    condition     = var.models_from != "hub" || !startswith(lookup(var.environment, "TRANSCRIPTD_DIARIZATION_MODEL", ""), "pyannote/") || contains(keys(var.secrets), "HF_TOKEN")
    error_message = "TRANSCRIPTD_DIARIZATION_MODEL names a gated pipeline: add HF_TOKEN to secrets, use a mirror, or remove the setting to use the embedded pipeline."
  }
}

variable "max_jobs_in_flight" {
  description = "TRANSCRIPTD_MAX_JOBS_IN_FLIGHT: maximum number of messages that one instance holds; fewer if they fill its GPUs."
  type        = number
  default     = 16
  nullable    = false

  validation {
    condition     = var.max_jobs_in_flight >= 1 && var.max_jobs_in_flight <= 32 && floor(var.max_jobs_in_flight) == var.max_jobs_in_flight
    error_message = "max_jobs_in_flight must be a whole number from 1 to 32."
  }
}

variable "environment" {
  description = "Further settings of the daemon (docs/configuration.md). No secrets: the values are readable in the launch template."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for key in keys(var.environment) : can(regex("^(TRANSCRIPTD_[A-Z0-9_]+|WEBHOOK_URL|DEBUG|AWS_[A-Z0-9_]+|HF_[A-Z0-9_]+|OTEL_RESOURCE_ATTRIBUTES|OTEL_SERVICE_NAME)$", key)) && !contains(["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"], key)])
    error_message = "environment accepts TRANSCRIPTD_…, WEBHOOK_URL, DEBUG, AWS_… and HF_… variables, OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME. Pass secrets such as HF_TOKEN and WEBHOOK_SECRET by reference in var.secrets."
  }

  validation {
    condition     = alltrue([for value in values(var.environment) : !can(regex("[\\r\\n]", value))])
    error_message = "environment values must be single lines."
  }

  # The daemon also refuses these settings; checking them here saves booting an instance.
  validation {
    condition     = length(setintersection(keys(var.environment), ["WEBHOOK_URL", "TRANSCRIPTD_WEBHOOK_HOSTS"])) == 0 || contains(keys(var.secrets), "WEBHOOK_SECRET")
    error_message = "WEBHOOK_URL and TRANSCRIPTD_WEBHOOK_HOSTS require WEBHOOK_SECRET in secrets: events are always signed."
  }

  validation {
    condition     = startswith(lookup(var.environment, "WEBHOOK_URL", "https://"), "https://") || lookup(var.environment, "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP", "") == "true"
    error_message = "WEBHOOK_URL must be https. In a closed network, TRANSCRIPTD_WEBHOOK_ALLOW_HTTP = \"true\" allows http."
  }

  validation {
    condition = length(setintersection(keys(var.environment), [
      "TRANSCRIPTD_QUEUE_URL", "TRANSCRIPTD_DLQ_URL", "TRANSCRIPTD_QUEUE_WEIGHTS", "TRANSCRIPTD_QUEUE_VISIBILITY_TIMEOUT_SECONDS", "TRANSCRIPTD_OUTBOX_URL", "TRANSCRIPTD_INPUT_BUCKETS",
      "TRANSCRIPTD_OUTPUT_BUCKET", "TRANSCRIPTD_OUTPUT_PREFIX", "TRANSCRIPTD_SCRATCH_DIR", "TRANSCRIPTD_MAX_JOBS_IN_FLIGHT",
      "TRANSCRIPTD_VISIBILITY_TIMEOUT_SECONDS", "TRANSCRIPTD_HEARTBEAT_SECONDS", "TRANSCRIPTD_DRAIN_TIMEOUT_SECONDS",
      "TRANSCRIPTD_HTTP_HOST", "TRANSCRIPTD_HTTP_PORT", "TRANSCRIPTD_HOST", "TRANSCRIPTD_AUTOSCALING_GROUP",
      "TRANSCRIPTD_TERMINATION_HOOK", "TRANSCRIPTD_IDLE_EXIT_SECONDS", "TRANSCRIPTD_CHECKPOINT_TAG", "TRANSCRIPTD_PROFILES",
      "TRANSCRIPTD_EVENT_BUS",
    ])) == 0
    error_message = "environment contains a setting that the module manages; use the module's variable for it."
  }
}

variable "event_bus_arn" {
  description = "ARN of an EventBridge event bus that gets the events of every job, besides webhooks. The bus must exist; one of another account needs a policy that admits this one. Requires WEBHOOK_SECRET in secrets. null: none."
  type        = string
  default     = null

  validation {
    condition     = var.event_bus_arn == null || can(regex("^arn:aws[a-z-]*:events:[a-z0-9-]+:[0-9]{12}:event-bus/[A-Za-z0-9._-]{1,256}$", var.event_bus_arn))
    error_message = "event_bus_arn must be the ARN of an event bus (arn:…:event-bus/…): EventBridge drops the events of a bus that it does not find."
  }

  # The daemon also refuses this; checking it here saves booting an instance.
  validation {
    condition     = var.event_bus_arn == null || contains(keys(var.secrets), "WEBHOOK_SECRET")
    error_message = "event_bus_arn requires WEBHOOK_SECRET in secrets: events that wait in the outbox are sealed with it."
  }
}

variable "secrets" {
  description = "References to WEBHOOK_SECRET, HF_TOKEN and OTEL_EXPORTER_OTLP_HEADERS: variable => ARN of an SSM parameter or a Secrets Manager secret. Instances read the values at boot; user data and state never contain them."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.secrets), ["WEBHOOK_SECRET", "HF_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS"])) == 0
    error_message = "secrets accepts only WEBHOOK_SECRET, HF_TOKEN and OTEL_EXPORTER_OTLP_HEADERS."
  }

  validation {
    condition     = alltrue([for arn in values(var.secrets) : can(regex("^arn:aws[a-z-]*:(ssm:[a-z0-9-]+:[0-9]{12}:parameter/|secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:)[A-Za-z0-9/_+=.@-]+$", arn))])
    error_message = "secrets must be ARNs (arn:…:parameter/… or arn:…:secret:…), never the values themselves."
  }
}

# --- Fleet ------------------------------------------------------------------------------------------------------------

variable "min_size" {
  description = "Minimum number of instances. With 0 an empty queue costs nothing, but the first job waits for a cold start."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.min_size >= 0 && floor(var.min_size) == var.min_size
    error_message = "min_size must be a whole number, 0 or more."
  }
}

variable "max_size" {
  description = "Maximum number of instances, which limits the cost. Your account's GPU vCPU quotas (separate for On-Demand and Spot) must allow it."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.max_size >= 1 && var.max_size >= var.min_size && floor(var.max_size) == var.max_size
    error_message = "max_size must be a whole number, at least 1 and at least min_size."
  }
}

variable "on_demand_base_capacity" {
  description = "Number of On-Demand instances before any Spot instance. 1: one instance works even when Spot is short. 0: Spot only."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.on_demand_base_capacity >= 0 && floor(var.on_demand_base_capacity) == var.on_demand_base_capacity
    error_message = "on_demand_base_capacity must be a whole number, 0 or more."
  }
}

variable "on_demand_percentage_above_base" {
  description = "Percentage of On-Demand instances above the base capacity."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.on_demand_percentage_above_base >= 0 && var.on_demand_percentage_above_base <= 100
    error_message = "on_demand_percentage_above_base must be from 0 to 100."
  }
}

# --- Scaling ----------------------------------------------------------------------------------------------------------

variable "mean_job_seconds" {
  description = "Mean processing time of a job on one instance. Take it from the metric transcriptd_job_duration_seconds after the first day; for types with several GPUs, divide it by their number."
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.mean_job_seconds > 0
    error_message = "mean_job_seconds must be positive."
  }
}

variable "acceptable_wait_seconds" {
  description = "Target for the queue wait in a warm fleet. Divided by mean_job_seconds, it is the backlog per instance that scaling maintains."
  type        = number
  default     = 600
  nullable    = false

  validation {
    condition     = var.acceptable_wait_seconds >= 60
    error_message = "acceptable_wait_seconds must be at least 60: CloudWatch receives queue metrics once a minute."
  }
}

variable "idle_exit_minutes" {
  description = "An instance terminates itself after this long without a job, unless the group would fall below min_size. Short values save idle GPU time, long values save cold starts: docs/capacity.md."
  type        = number
  default     = 10
  nullable    = false

  validation {
    condition     = var.idle_exit_minutes >= 1 && var.idle_exit_minutes <= 720
    error_message = "idle_exit_minutes must be from 1 to 720."
  }
}

variable "idle_alarm_minutes" {
  description = "Raise the idle-fleet alarm when instances have had no work for this long and did not terminate themselves."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = var.idle_alarm_minutes >= 15 && var.idle_alarm_minutes <= 1440 && var.idle_alarm_minutes % 5 == 0
    error_message = "idle_alarm_minutes must be a multiple of 5 from 15 to 1440."
  }
}

# --- Deadlines --------------------------------------------------------------------------------------------------------

variable "deadlines" {
  description = <<-EOT
    Deadlines in seconds. Each must be shorter than the deadline that waits for it.
      visibility        visibility timeout of a message, and of each extension (TRANSCRIPTD_VISIBILITY_TIMEOUT_SECONDS)
      heartbeat         interval of extensions, at most a third of visibility (TRANSCRIPTD_HEARTBEAT_SECONDS)
      drain             time for jobs in progress to finish after SIGTERM (TRANSCRIPTD_DRAIN_TIMEOUT_SECONDS)
      stop              TimeoutStopSec of transcriptd.service
      termination_hook  heartbeat timeout of the termination hook
      launch_hook       heartbeat timeout of the launch hook: boot, install, models
      spot_margin       how long before a Spot interruption all jobs must be released
  EOT
  type = object({
    visibility       = optional(number, 120)
    heartbeat        = optional(number, 30)
    drain            = optional(number, 300)
    stop             = optional(number, 360)
    termination_hook = optional(number, 600)
    launch_hook      = optional(number, 1800)
    spot_margin      = optional(number, 30)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.deadlines.heartbeat > 0 && var.deadlines.heartbeat <= var.deadlines.visibility / 3
    error_message = "deadlines.heartbeat must be at most a third of deadlines.visibility, so that two extensions may fail."
  }

  validation {
    condition     = var.deadlines.visibility <= 43200 && var.deadlines.visibility >= 60
    error_message = "deadlines.visibility must be from 60 to 43200, the maximum of SQS."
  }

  validation {
    condition     = var.deadlines.drain < var.deadlines.stop && var.deadlines.stop < var.deadlines.termination_hook
    error_message = "deadlines must satisfy drain < stop < termination_hook. Otherwise systemd or EC2 kills a daemon that is still draining."
  }

  validation {
    condition     = var.deadlines.termination_hook >= 30 && var.deadlines.termination_hook <= 7200 && var.deadlines.launch_hook <= 7200
    error_message = "deadlines of hooks must be from 30 to 7200, the limits of EC2 Auto Scaling."
  }

  validation {
    condition     = var.deadlines.launch_hook > 900
    error_message = "deadlines.launch_hook must exceed 900: the daemon allows its runner 900 s to load models."
  }

  validation {
    condition     = var.deadlines.spot_margin >= 10 && var.deadlines.spot_margin < 120
    error_message = "deadlines.spot_margin must be from 10 to 119: the interruption notice comes two minutes ahead."
  }
}

# --- Alarms -----------------------------------------------------------------------------------------------------------

variable "alarm_topic_arns" {
  description = "SNS topics for alarms and launch failures. Empty: the alarms exist but notify no one."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.alarm_topic_arns : can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+$", arn))])
    error_message = "alarm_topic_arns must be ARNs of standard SNS topics."
  }
}

variable "oldest_message_alarm_seconds" {
  description = "Age of the oldest waiting job above which an alarm is raised. SQS excludes messages that were received three times or more; these appear in the dead-letter queue instead."
  type        = number
  default     = 3600
  nullable    = false

  validation {
    condition     = var.oldest_message_alarm_seconds >= 60
    error_message = "oldest_message_alarm_seconds must be at least 60."
  }
}
