"""Detection of a job_id that was used before for other work, perhaps by another publisher."""

from daemon.errors import JobIdConflict
from daemon.schema.job import Job
from daemon.schema.manifest import Manifest
from daemon.schema.options import OPTIONS_AFTER_WORDS, RENDERING_OPTIONS


def require_same_work(job: Job, message_id: str, earlier: Manifest) -> None:
    """Raise JobIdConflict unless the finished job with this job_id had the same recording and the same options.

    Rendering options may differ: they change how its transcript is written (late_outputs.py). The errors say nothing about
    the earlier job, which may belong to someone else. A message is never in conflict with itself because of its options: the
    deployment's defaults may have changed since it was published.
    """
    same = (earlier.input.bucket, earlier.input.key) == (job.input.bucket, job.input.key)
    if not same or job.input.version_id not in (None, earlier.input.version_id):
        raise _conflict(job, "another input")
    options = job.options.model_dump(mode="json")
    if job.options.words_of is not None:  # the earlier job has set the others
        options = {name: value for name, value in options.items() if name in {*OPTIONS_AFTER_WORDS, "words_of"}}
    # An option that only one of the two releases knows is no difference.
    if message_id != earlier.message_id and any(
        earlier.options.get(name, value) != value for name, value in options.items() if name not in RENDERING_OPTIONS
    ):
        raise _conflict(job, "other options")


def _conflict(job: Job, what: str) -> JobIdConflict:
    return JobIdConflict(
        f"job_id {job.job_id} finished earlier with {what}; use a different job_id for each recording and choice of options"
    )
