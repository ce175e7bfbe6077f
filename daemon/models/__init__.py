"""Model weights for a machine that reaches no hub at run time: fetched, mirrored in S3, verified (docs/models.md)."""
