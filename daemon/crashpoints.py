"""Places where a test makes the daemon die as if by SIGKILL, to prove that no step before or after it is lost.

Set `_TRANSCRIPTD_CRASH_AT` to `point:job_id`, several separated by commas. Only a job's first receive dies, so that a
restarted daemon gets past the point. Nothing but a test sets it.
"""

import os
import signal

VARIABLE = "_TRANSCRIPTD_CRASH_AT"


def crash_point(point: str, job_id: str | None, receive_count: int) -> None:
    wanted = os.environ.get(VARIABLE)
    if wanted and receive_count == 1 and f"{point}:{job_id}" in wanted.split(","):
        os.kill(os.getpid(), signal.SIGKILL)
