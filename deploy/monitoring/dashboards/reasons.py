"""Reasons of failed deliveries, with owner and fix, from daemon/errors.py as table columns."""

from daemon.errors import InvalidJob, OnFailure, TranscriptdError, all_errors
from deploy.monitoring.dashboards.panels import BLUE, ORANGE, PURPLE, RED, YELLOW, Column, Steps

SENDER, SETUP, AWS, INSTANCE, OURS = (
    "sender of the job",
    "settings or role",
    "AWS or network",
    "instance",
    "transcriptd",
)
COLOURS = {SENDER: BLUE, SETUP: PURPLE, AWS: YELLOW, INSTANCE: ORANGE, OURS: RED}

# Every other code belongs to the sender if retrying cannot help, and to the instance if it may.
EXCEPTIONS = {
    "access_denied": SETUP,
    "output_refused": SETUP,
    "bucket_not_allowed": SETUP,
    "prefix_not_allowed": SETUP,
    "webhook_not_allowed": SETUP,
    "unknown_model": SETUP,
    "storage_unavailable": AWS,
    "queue_unavailable": AWS,
    "internal_error": OURS,
    "cancelled": SENDER,
}


def responsible_party(error: type[TranscriptdError]) -> str:
    """Name the owner, who can fix it."""
    if error.code in EXCEPTIONS:
        return EXCEPTIONS[error.code]
    return SENDER if error.on_failure is OnFailure.DEAD_LETTER or issubclass(error, InvalidJob) else INSTANCE


def failures(selector: str, outcomes: str) -> str:
    """Count the deliveries in the selected time range by outcome and reason. Rounded, because increase() extrapolates."""
    counted = f'sum by (outcome, reason) (increase(transcriptd_deliveries_total{{{selector}, outcome=~"{outcomes}"}}[$__range]))'
    copies = counted
    for column in ("owner", "hint"):
        copies = f'label_replace({copies}, "{column}", "$1", "reason", "(.*)")'
    return f"round({copies}) > 0"


def columns() -> list[Column]:
    errors = {error.code: error for error in all_errors()}
    return [
        Column("reason", "Reason", width=150),
        Column("outcome", "Outcome", width=105),
        Column("Value", "Deliveries", unit="short", decimals=0, width=85, steps=Steps(ORANGE)),
        Column(
            "owner",
            "Owner",
            width=130,
            named=tuple(
                (code, responsible_party(error), COLOURS[responsible_party(error)]) for code, error in errors.items()
            ),
        ),
        Column("hint", "Fix", named=tuple((code, error.hint, None) for code, error in errors.items())),
    ]
