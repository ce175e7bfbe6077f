variable "region" {
  description = "AWS Region."
  type        = string
  default     = "eu-central-1"
}

variable "zones" {
  description = "Availability Zones. Use several: GPU capacity differs between zones."
  type        = list(string)
  default     = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
}

variable "release_bucket" {
  description = "Bucket with the release archive."
  type        = string
}

variable "release_key" {
  description = "Key of the release archive, such as transcriptd/0.1.0.tar.gz."
  type        = string
}

variable "release_sha256" {
  description = "SHA-256 of the release archive, as printed by `make release`."
  type        = string
}

variable "webhook_url" {
  description = "URL of the webhook receiver."
  type        = string
  default     = "https://app.example.com/hooks/transcripts"
}

variable "webhook_secret_arn" {
  description = "ARN of the SSM parameter (SecureString) or Secrets Manager secret that holds the webhook signing secret."
  type        = string
}

variable "alarm_email" {
  description = "Mail address for alarms."
  type        = string
}
