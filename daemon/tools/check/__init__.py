"""`transcriptd check`: whether the daemon can work here, part by part, and what to do where it cannot.

Each check is one function, declared in the registry with its limits and its documentation. None touches a job.
"""

# In the order in which the checks are printed: each module declares its own.
from daemon.tools.check import machine, models, queues, buckets, clock, webhook, host  # noqa: I001

__all__ = ["buckets", "clock", "host", "machine", "models", "queues", "webhook"]
