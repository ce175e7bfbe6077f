"""Commands for operators and publishers. They call SQS and S3 directly with boto3; no daemon has to run."""
