"""Report a job's events and check for its cancellation."""

from typing import Protocol

from daemon.protocol.events import PipelineEvent


class Reporter(Protocol):
    """Passed to the pipeline with each job."""

    def emit(self, event: PipelineEvent) -> None:
        """Report an event of the job. Thread-safe."""

    def check_cancelled(self) -> None:
        """Raise errors.Interrupted if the job was cancelled. Called between batches and stages."""


class NullReporter:
    """No-op reporter, used for warm-up."""

    def emit(self, event: PipelineEvent) -> None: ...

    def check_cancelled(self) -> None: ...
