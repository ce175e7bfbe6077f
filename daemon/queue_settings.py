"""Settings for the job queues and their deliveries. Part of `Settings` in config.py."""

from pydantic import Field
from pydantic_settings import BaseSettings

from daemon.bucket_settings import Names
from daemon.job_queues import JobQueue, job_queues
from daemon.settings_rules import MAX_LEASE_SECONDS


class QueueSettings(BaseSettings):
    queue_url: Names = Field(
        description="URL of the SQS queue that the daemon receives jobs from; or several as `name=URL`, the most urgent first (operations.md)"
    )
    dlq_url: Names = Field(
        description="URL of the dead-letter queue, where failed jobs are sent with the reason; with several queues, one for each as `name=URL`"
    )
    queue_weights: Names = Field(
        (),
        description="shares of several queues in the devices, as `name=number`; without them, priority is strict: a queue is served while those before it are empty",
    )
    visibility_timeout_seconds: float = Field(
        120, ge=1, le=MAX_LEASE_SECONDS, description="length of the lease on a message, and of each extension"
    )
    queue_visibility_timeout_seconds: Names = Field(
        (), description="the same for some of several queues, as `name=seconds`"
    )
    heartbeat_seconds: float = Field(30, gt=0, description="interval of lease extensions; at most a third of the lease")
    receive_wait_time_seconds: int = Field(20, ge=0, le=20, description="long-poll wait of a receive")
    queue_timeout_seconds: float = Field(10, gt=0, description="timeout of an SQS call, not counting the long poll")
    queue_backoff_max_seconds: float = Field(
        30, gt=0, description="maximum backoff between receives while SQS fails; starts at 1 s or less, with jitter"
    )
    poll_stall_seconds: float = Field(
        180,
        gt=0,
        description="if no receive succeeds for this long while polling, /readyz fails and the systemd watchdog is not notified",
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="number of failures with a transient error before a job is dead-lettered; keep the queue's maxReceiveCount well above it, because interruptions count there",
    )
    max_crashed_deliveries: int = Field(
        3,
        ge=1,
        le=100,
        description="number of deliveries without a recorded outcome before a job is dead-lettered as a suspected cause of crashes",
    )
    brake_after_failures: int = Field(
        3,
        ge=1,
        description="consecutive deliveries failed by the deployment's own bucket or queues before receiving pauses until the fault is fixed",
    )
    retry_base_seconds: float = Field(10, gt=0, description="backoff before attempt 2; doubles each time; full jitter")
    retry_max_seconds: float = Field(900, gt=0, description="maximum backoff between attempts")
    max_jobs_in_flight: int = Field(
        16, ge=1, le=32, description="maximum messages held at once; fewer if they fill the devices (architecture.md)"
    )

    @property
    def queues(self) -> tuple[JobQueue, ...]:
        """The job queues, the most urgent one first."""
        return job_queues(self)

    def queue(self, name: str) -> JobQueue:
        """Return the queue of this name."""
        return next(queue for queue in self.queues if queue.name == name)
