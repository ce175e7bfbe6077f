"""Report a job's events, check for its cancellation, and provide its priority."""

from typing import Protocol

from daemon.protocol.events import PipelineEvent
from daemon.protocol.priority import ONLY, Priority


class Reporter(Protocol):
    """Passed to the pipeline with each job."""

    @property
    def priority(self) -> Priority:
        """The job's priority over the other jobs in the process."""

    def emit(self, event: PipelineEvent) -> None:
        """Report an event of the job. Thread-safe."""

    def check_cancelled(self) -> None:
        """Raise errors.Interrupted if the job was cancelled. Called between batches and stages."""


class NullReporter:
    """No-op reporter, used for warm-up."""

    priority = ONLY

    def emit(self, event: PipelineEvent) -> None: ...

    def check_cancelled(self) -> None: ...
