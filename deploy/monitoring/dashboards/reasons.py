"""Why a delivery failed, whose matter that is, and the cure: what daemon/errors.py says, as columns of a table."""

from daemon.errors import Fate, InvalidJob, TranscriptdError, all_errors
from deploy.monitoring.dashboards.panels import BLUE, ORANGE, PURPLE, RED, YELLOW, Column, Steps

SENDER, SETUP, AWS, INSTANCE, OURS = (
    "sender of the job",
    "settings or role",
    "AWS or network",
    "instance",
    "transcriptd",
)
COLOURS = {SENDER: BLUE, SETUP: PURPLE, AWS: YELLOW, INSTANCE: ORANGE, OURS: RED}

# The others are the sender's where trying again cannot help, and the instance's where it may.
EXCEPTIONS = {
    "access_denied": SETUP,
    "bucket_not_allowed": SETUP,
    "webhook_not_allowed": SETUP,
    "unknown_model": SETUP,
    "storage_unavailable": AWS,
    "queue_unavailable": AWS,
    "internal_error": OURS,
}


def whose(error: type[TranscriptdError]) -> str:
    """Who can mend it."""
    if error.code in EXCEPTIONS:
        return EXCEPTIONS[error.code]
    return SENDER if error.fate is Fate.DEAD_LETTER or issubclass(error, InvalidJob) else INSTANCE


def failures(selector: str, outcomes: str) -> str:
    """How many deliveries of the time that is looked at ended so, by outcome and reason. An increase is extrapolated: hence the rounding."""
    counted = (
        f'sum by (outcome, reason) (increase(transcriptd_jobs_total{{{selector}, outcome=~"{outcomes}"}}[$__range]))'
    )
    copies = counted
    for column in ("whose", "cure"):
        copies = f'label_replace({copies}, "{column}", "$1", "reason", "(.*)")'
    return f"round({copies}) > 0"


def columns() -> list[Column]:
    errors = {error.code: error for error in all_errors()}
    return [
        Column("reason", "Reason", width=150),
        Column("outcome", "Outcome", width=105),
        Column("Value", "Deliveries", unit="short", decimals=0, width=85, steps=Steps(ORANGE)),
        Column(
            "whose",
            "Whose",
            width=130,
            named=tuple((code, whose(error), COLOURS[whose(error)]) for code, error in errors.items()),
        ),
        Column("cure", "Cure", named=tuple((code, error.cure, None) for code, error in errors.items())),
    ]
