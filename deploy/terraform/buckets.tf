# Create the buckets that were not given. Names contain account and region, because bucket names are global.

locals {
  created_buckets = merge(
    length(var.input_buckets) == 0 ? { input = "${var.name}-input-${local.account_id}-${local.region}" } : {},
    var.output_bucket == null ? { output = "${var.name}-output-${local.account_id}-${local.region}" } : {},
  )
  input_buckets = length(var.input_buckets) == 0 ? [local.created_buckets["input"]] : var.input_buckets
  output_bucket = var.output_bucket == null ? local.created_buckets["output"] : var.output_bucket

  bucket_arns = { for key, name in local.created_buckets : key => "arn:${local.partition}:s3:::${name}" }
  expiry_days = { input = var.recording_days, output = var.result_days }

  # Lifecycle rules select by prefix, tag or size. `<prefix><job_id>/checkpoints/` has no common prefix, so use a tag.
  checkpoint_tag = { key = "transcriptd", value = "checkpoint" }
}

resource "aws_s3_bucket" "this" {
  # checkov:skip=CKV_AWS_18: access logs would need a third bucket; use CloudTrail data events
  # checkov:skip=CKV_AWS_144: recordings and transcripts stay in their region, which data protection often requires
  # checkov:skip=CKV2_AWS_62: only recording_prefixes have a consumer; results are announced by webhooks
  # checkov:skip=CKV_AWS_145: SSE-S3 unless kms_key_arn is given, and then that key
  # checkov:skip=CKV_AWS_21: bucket_versioning, on by default
  for_each = local.created_buckets

  bucket = each.value
  tags   = local.tags
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.created_buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = local.created_buckets

  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.created_buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = var.bucket_versioning ? local.created_buckets : {}

  bucket = aws_s3_bucket.this[each.key].id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  # checkov:skip=CKV_AWS_300: abort-uploads does this; the check misses it next to dynamic rules
  for_each = local.created_buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    id     = "abort-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  rule {
    id     = "expire-noncurrent-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_version_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  dynamic "rule" {
    for_each = each.key == "output" ? [1] : []

    content {
      id     = "expire-checkpoints"
      status = "Enabled"

      filter {
        and {
          prefix = var.output_prefix
          tags   = { (local.checkpoint_tag.key) = local.checkpoint_tag.value }
        }
      }

      expiration {
        days = var.checkpoint_days
      }
    }
  }

  dynamic "rule" {
    for_each = local.expiry_days[each.key] == null ? [] : [local.expiry_days[each.key]]

    content {
      id     = "expire-objects"
      status = "Enabled"

      filter {
        prefix = each.key == "output" ? var.output_prefix : ""
      }

      expiration {
        days = rule.value
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.created_buckets

  statement {
    sid       = "DenyWithoutTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.bucket_arns[each.key], "${local.bucket_arns[each.key]}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.created_buckets

  bucket = aws_s3_bucket.this[each.key].id
  policy = data.aws_iam_policy_document.bucket[each.key].json

  depends_on = [aws_s3_bucket_public_access_block.this]
}
