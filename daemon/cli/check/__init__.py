"""`transcriptd check`: test each part of the daemon's environment and report how to fix problems.

Each check is a function, registered with its timeout and its documentation. No check touches a job.
"""

# The order of the imports is the order of the output: each module registers its checks.
from daemon.cli.check import machine, models, queues, buckets, clock, webhook, event_bus, host  # noqa: I001

__all__ = ["buckets", "clock", "event_bus", "host", "machine", "models", "queues", "webhook"]
