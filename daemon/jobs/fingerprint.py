"""The key of a job's checkpoints: they are reused only for the same recording, options and pipeline fingerprint."""

import hashlib
import json
import re

from daemon.schema.manifest import InputObject
from daemon.schema.options import JobOptions

FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def checkpoint_fingerprint(pipeline: str, found: InputObject, options: JobOptions) -> str:
    """Return the name of the job's checkpoint folder. `pipeline` is the fingerprint from the runner's Ready message."""
    parts = [pipeline, found.etag, found.version_id, found.size_bytes, options.digest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
