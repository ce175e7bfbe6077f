"""Settings for webhooks, the event bus and the outbox of both. Part of `Settings` in config.py."""

from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from daemon.bucket_settings import Names


class WebhookSettings(BaseSettings):
    webhook_url: str | None = Field(
        None,
        validation_alias=AliasChoices("webhook_url", "WEBHOOK_URL"),
        description="receiver for the events of jobs that name no webhook",
    )
    webhook_secret: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        validation_alias=AliasChoices("webhook_secret", "WEBHOOK_SECRET"),
        description="signing secrets `whsec_…`, separated by spaces or commas; events are signed with each one, so that a secret can be rotated",
    )
    webhook_hosts: Names = Field(
        (), description="webhook hosts that jobs may name besides WEBHOOK_URL's; `*` allows every public host"
    )
    webhook_allow_http: bool = Field(
        False,
        description="allow plain HTTP and private addresses for hosts in the allow-list, and check no address before a proxy is used; for tests and closed networks",
    )
    webhook_attempts: int = Field(5, ge=1, description="number of attempts to send an event")
    webhook_backoff_min_seconds: float = Field(2, gt=0, description="first backoff between attempts; doubles each time")
    webhook_backoff_max_seconds: float = Field(30, gt=0, description="maximum backoff between attempts")
    webhook_timeout_seconds: float = Field(15, gt=0, description="time limit for the receiver's response")
    webhook_progress_seconds: float = Field(
        10, gt=0, description="minimum time between job.progress events of a job, for webhooks and the event bus"
    )
    event_bus: str | None = Field(
        None,
        pattern=r"^(arn:aws[a-z-]*:events:[a-z0-9-]+:[0-9]{12}:event-bus/)?[A-Za-z0-9._-]{1,256}$",
        description="name or ARN of an EventBridge event bus that gets the events of every job, besides the job's webhook; without it, none does",
    )
    outbox_url: str | None = Field(
        None,
        description="URL of a standard SQS queue that keeps final events after their attempts are used up, for webhooks and the event bus; without it, such events are dropped",
    )
    outbox_retry_schedule_seconds: Annotated[tuple[float, ...], NoDecode] = Field(
        (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        min_length=1,
        description="times of the outbox's attempts, counted from the event's first attempt; after the last one the event is given up",
    )
