"""Commands for the people who run the daemon and who send it work. They talk to SQS and S3 themselves, with boto3."""
