"""Model weights: fetching, mirroring in S3 and verification, so that no hub is needed at run time (docs/models.md)."""
