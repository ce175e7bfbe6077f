output "queue_urls" {
  description = "URLs of the job queues, to which producers send, by name; jobs by default."
  value       = { for name in keys(local.job_queues) : name => local.queue_urls[name] }
}

output "queue_arns" {
  description = "ARNs of the queues: each job queue (jobs by default) and NAME-dlq, outbox, outbox-dlq. Producers need sqs:SendMessage on the job queues."
  value       = local.queue_arns
}

output "dlq_urls" {
  description = "URLs of the job queues' dead-letter queues, by the name of the job queue."
  value       = { for name in keys(local.job_queues) : name => local.queue_urls["${name}-dlq"] }
}

output "outbox_url" {
  description = "URL of the webhook outbox."
  value       = aws_sqs_queue.this["outbox"].id
}

output "input_buckets" {
  description = "Buckets that jobs may read recordings from."
  value       = local.input_buckets
}

output "output_bucket" {
  description = "Bucket for results."
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
  description = "Names of the lifecycle hooks that the daemon and its boot script complete."
  value       = { launch = local.launch_hook, termination = local.termination_hook }
}

output "instance_role_arn" {
  description = "IAM role of the instances, to be allowed in the policies of existing buckets, keys and secrets."
  value       = aws_iam_role.instance.arn
}

output "instance_security_group_id" {
  description = "Security group of the instances."
  value       = aws_security_group.instance.id
}

output "backlog_target" {
  description = "Backlog per instance that scaling maintains, in jobs."
  value       = local.backlog_target
}

output "deadlines" {
  description = "Effective deadlines, in seconds."
  value       = var.deadlines
}

output "dashboard_metrics" {
  description = "Namespace, name and dimensions of the CloudWatch metrics that scaling and alarms use, for dashboards."
  value       = local.metrics
}

output "alarm_names" {
  description = "Names of the alarms, for composite alarms and dashboards."
  value       = sort([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_name])
}
