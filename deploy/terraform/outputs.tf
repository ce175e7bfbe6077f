output "queue_url" {
  description = "URL of the queue that jobs are sent to."
  value       = aws_sqs_queue.this["jobs"].id
}

output "queue_arns" {
  description = "ARNs of the queues: jobs, jobs-dlq, outbox, outbox-dlq. Producers need sqs:SendMessage on jobs."
  value       = local.queue_arns
}

output "dlq_url" {
  description = "URL of the dead-letter queue."
  value       = aws_sqs_queue.this["jobs-dlq"].id
}

output "outbox_url" {
  description = "URL of the webhook outbox."
  value       = aws_sqs_queue.this["outbox"].id
}

output "input_buckets" {
  description = "Buckets that jobs may read."
  value       = local.input_buckets
}

output "output_bucket" {
  description = "Bucket of results."
  value       = local.output_bucket
}

output "output_prefix" {
  description = "Key prefix of results."
  value       = var.output_prefix
}

output "autoscaling_group_name" {
  description = "Name of the Auto Scaling group."
  value       = aws_autoscaling_group.this.name
}

output "lifecycle_hooks" {
  description = "Names of the hooks that the daemon and its boot script complete."
  value       = { launch = local.launch_hook, termination = local.termination_hook }
}

output "instance_role_arn" {
  description = "Role of the instances, for the policies of existing buckets, keys and secrets."
  value       = aws_iam_role.instance.arn
}

output "instance_security_group_id" {
  description = "Security group of the instances."
  value       = aws_security_group.instance.id
}

output "backlog_target" {
  description = "Jobs waiting for each instance that scaling keeps."
  value       = local.backlog_target
}

output "deadlines" {
  description = "The chain of deadlines in force, in seconds."
  value       = var.deadlines
}

output "dashboard_metrics" {
  description = "Namespace, name and dimensions of every CloudWatch metric that scaling and alarms look at, for dashboards."
  value       = local.metrics
}

output "alarm_names" {
  description = "Names of the alarms, for composite alarms and dashboards."
  value       = sort([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_name])
}
