"""Settings for tenants, the message groups of fair queues. Part of `Settings` in config.py."""

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from daemon.bucket_settings import Names
from daemon.schema.tenant import RULE, valid_tenant

MAX_METRICS_TENANTS = 50  # each has about 30 series in every daemon
NO_TENANT, OTHER_TENANT = "none", "other"


class TenantSettings(BaseSettings):
    max_jobs_per_tenant: int = Field(
        0,
        ge=0,
        description="maximum messages of one tenant (MessageGroupId) that the daemon holds at once, from each queue; further ones return to the queue for a while and spend no attempt (publishing.md); 0: no limit",
    )
    metrics_tenants: Names = Field(
        (),
        description=f"up to {MAX_METRICS_TENANTS} tenants that the metrics name; all others share the label `{OTHER_TENANT}`, and messages without one have `{NO_TENANT}`",
    )

    @field_validator("metrics_tenants")
    @classmethod
    def _check_tenants(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if valid_tenant(name) is None:
                raise ValueError(f"{name[:130]!r} cannot be a tenant: use {RULE}")
            if name in (NO_TENANT, OTHER_TENANT):
                raise ValueError(f"{name} is the label of messages whose tenant is not listed")
        if len(value) > MAX_METRICS_TENANTS:
            raise ValueError(f"{len(value)} tenants are too many for metrics: list at most {MAX_METRICS_TENANTS}")
        return tuple(dict.fromkeys(value))
