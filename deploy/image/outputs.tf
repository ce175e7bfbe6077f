output "pipeline_arn" {
  description = "Pipeline that builds images: aws imagebuilder start-image-pipeline-execution --image-pipeline-arn …"
  value       = aws_imagebuilder_image_pipeline.this.arn
}

output "image_filters" {
  description = "Filters that find the images of this release, newest last with --query 'sort_by(Images,&CreationDate)': aws ec2 describe-images --owners self --filters …"
  value       = ["Name=name,Values=${var.name}-*", "Name=tag:Release,Values=${var.release_key}"]
}
