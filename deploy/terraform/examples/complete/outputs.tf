output "queue_url" {
  description = "Where to send jobs."
  value       = module.transcriptd.queue_url
}

output "input_buckets" {
  description = "Where to upload recordings."
  value       = module.transcriptd.input_buckets
}

output "output_bucket" {
  description = "Where results appear."
  value       = module.transcriptd.output_bucket
}
