output "queue_urls" {
  description = "URL of the job queue."
  value       = module.transcriptd.queue_urls
}

output "input_buckets" {
  description = "Buckets for recordings."
  value       = module.transcriptd.input_buckets
}

output "output_bucket" {
  description = "Bucket for results."
  value       = module.transcriptd.output_bucket
}
