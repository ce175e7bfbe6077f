# Account data that a plan needs: invented, but well-formed.

mock_data "aws_partition" {
  defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
}

mock_data "aws_region" {
  defaults = { region = "eu-central-1" }
}

mock_data "aws_caller_identity" {
  defaults = { account_id = "123456789012" }
}

mock_data "aws_iam_policy_document" {
  defaults = { json = "{}" }
}

mock_data "aws_ssm_parameter" {
  defaults = { insecure_value = "ami-0aaaaaaaaaaaaaaaa" }
}

mock_resource "aws_sqs_queue" {
  defaults = { id = "https://sqs.eu-central-1.amazonaws.com/123456789012/queue" }
}

mock_resource "aws_iam_instance_profile" {
  defaults = { arn = "arn:aws:iam::123456789012:instance-profile/transcriptd" }
}

mock_resource "aws_launch_template" {
  defaults = { id = "lt-0aaaaaaaaaaaaaaaa", latest_version = 1 }
}
