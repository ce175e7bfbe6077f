"""The tenant of a job: the message group ID that its publisher sets, as SQS's fair queues use it."""

import re
from typing import Any

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html: letters, digits, punctuation
_TENANT = re.compile(r"[!-~]{1,128}")
RULE = "1 to 128 ASCII letters, digits or punctuation marks, without spaces"


def valid_tenant(group_id: Any) -> str | None:
    """Return the group ID if SQS accepts it, else None: it comes from outside, and another SQS may check nothing."""
    return group_id if isinstance(group_id, str) and _TENANT.fullmatch(group_id) else None
