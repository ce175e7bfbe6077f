"""The faults of a run and their times, determined by the seed before anything starts, so that a failure can be
reproduced."""

import random
from dataclasses import dataclass
from enum import StrEnum

# Longer than the daemons' lease (see site.py): a daemon that is frozen this long has lost its messages.
PAST_THE_LEASE_SECONDS = 12.0
# Less than the grace period of a container (10 to 30 s), so that a daemon rarely has time for its jobs.
MAX_GRACE_SECONDS = 5.0


class Action(StrEnum):
    KILL_DAEMON = "kill daemon"  # SIGKILL; the supervisor starts another one
    KILL_RUNNER = "kill runner"  # SIGKILL to the child process that holds the models
    TERM_DAEMON = "term daemon"  # SIGTERM: a deployment
    TERM_THEN_KILL = "term then kill"  # SIGTERM, then SIGKILL at the end of a short grace period
    FREEZE_DAEMON = "freeze daemon"  # SIGSTOP, then SIGCONT once its leases have expired
    FAULT = "fault"  # matching calls fail for a while
    TRAP = "trap"  # the caller of the next matching call gets SIGKILL at that call
    REFUSE_RECORDING = "refuse recording"  # publish a job whose recording S3 refuses for good
    REFUSE_LETTERS = "refuse dead letters"  # the dead-letter queue denies access for a while; publish a job that fails
    EXPIRE_MESSAGE = "expire message"  # publish a job, and delete its message once the job has started
    ROTATE_KEYS = "rotate keys"  # write a new credentials file; the old access key is then refused


class Fault(StrEnum):
    ERROR = "error"  # 500
    SLOW_DOWN = "slow down"  # 503 with its error code
    THROTTLED = "throttled"  # 400 with its error code
    GARBAGE = "garbage"  # 502 and an HTML page, as from a proxy
    LATENCY = "latency"
    BLACK_HOLE = "black hole"  # accepted, never answered
    RESET = "reset"  # the connection breaks before the call arrives
    LOST_ANSWER = "lost answer"  # the call is executed, but the response is lost
    CUT_ANSWER = "cut answer"  # half of the response arrives
    SHORT_RANGE = "short range"  # a valid answer to a ranged read, with half of the requested bytes
    # Refusals that no retry cures
    DENIED = "denied"  # 403 by a policy; SQS uses 400
    INVALID = "invalid"  # 400
    NOT_IMPLEMENTED = "not implemented"  # 501


class Moment(StrEnum):
    BEFORE = "before"  # the call never arrives
    AFTER = "after"  # it is executed, but the caller is dead
    LATE = "late"  # it arrives when the caller is dead and its lease has expired


class Rotation(StrEnum):
    FILE_FIRST = "file first"  # the old key is valid for a while, as with a careful rotation
    REFUSAL_FIRST = "refusal first"  # the old key is refused before the file has the new one


@dataclass(frozen=True, slots=True)
class Step:
    at: float  # seconds from the start
    action: Action
    daemon: int | None = None  # None: all of them
    seconds: float = 0.0
    calls: str = ""  # pattern of the proxy's names of calls
    how: str = ""  # a Fault, a Moment or a Rotation
    job: str = ""  # the job that this step publishes

    def __str__(self) -> str:
        who = "all daemons" if self.daemon is None else f"daemon {self.daemon}"
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        what = " ".join(["", self.how, *(["at", self.calls] if self.calls else [])]).rstrip()
        job = f" for {self.job}" if self.job else ""
        return f"{self.at:6.1f} s  {self.action}{what}{job}, {who}{lasting}"


# Crashes with the most effect: between two calls that together form one outcome.
TRAPS = (
    ("s3:PUT:transcript.json", Moment.AFTER),
    ("s3:PUT:transcript.json", Moment.LATE),
    ("s3:PUT:manifest.json", Moment.BEFORE),
    ("s3:PUT:manifest.json", Moment.AFTER),
    ("s3:PUT:manifest.json", Moment.LATE),
    ("sqs:DeleteMessage", Moment.BEFORE),
    ("sqs:DeleteMessage", Moment.AFTER),
    ("sqs:SendMessage", Moment.AFTER),  # the dead letter is sent, but its original not deleted
    ("sqs:ReceiveMessage", Moment.AFTER),
)

FAULTED_CALLS = ("sqs:*", "s3:*", "s3:PUT:*", "s3:GET:*", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "*")

RECORDING_REFUSALS = (Fault.DENIED, Fault.INVALID, Fault.NOT_IMPLEMENTED)
DEAD_LETTERS = "sqs:SendMessage:transcriptd-dlq"
# Of the deployment's own bucket: all calls, writes, reads, or those for one job in ten.
BUCKET_REFUSALS = (
    ("s3:*:results*", Fault.DENIED),
    ("s3:PUT:results/*", Fault.DENIED),
    ("s3:GET:results/*", Fault.DENIED),
    ("s3:PUT:results/*", Fault.INVALID),
    ("s3:GET:results/*", Fault.INVALID),
    ("s3:PUT:results/*", Fault.NOT_IMPLEMENTED),
    ("s3:*:results/transcripts/job-*7/*", Fault.DENIED),
    ("s3:PUT:results/transcripts/job-*3/*", Fault.INVALID),
)
_OF_PROCESSES = (
    Action.KILL_DAEMON,
    Action.KILL_RUNNER,
    Action.TERM_DAEMON,
    Action.TERM_THEN_KILL,
    Action.FREEZE_DAEMON,
)
# Every class of faults once; a schedule with fewer steps lacks some.
ALL_CLASSES = (
    *((Action.TRAP, calls, moment) for calls, moment in TRAPS),
    *((Action.FAULT, calls, refusal) for calls, refusal in BUCKET_REFUSALS),
    *((Action.FAULT, "", fault) for fault in Fault if fault not in RECORDING_REFUSALS),
    *((action, "", "") for action in _OF_PROCESSES for _ in range(2)),
    *((Action.REFUSE_RECORDING, "", refusal) for refusal in RECORDING_REFUSALS),
    *((Action.REFUSE_LETTERS, DEAD_LETTERS, Fault.DENIED) for _ in range(2)),
    *((Action.EXPIRE_MESSAGE, "", "") for _ in range(4)),
    *((Action.ROTATE_KEYS, "", rotation) for rotation in Rotation),
)


def plan(seed: int, faults: int, seconds: float, daemons: int) -> list[Step]:
    """Return the schedule of a run: this number of steps, spread over the time. Every class comes once before any comes
    again."""
    rng = random.Random(seed)
    classes = list(ALL_CLASSES)
    rng.shuffle(classes)
    gap_seconds = seconds / max(faults, 1)
    steps = []
    for number in range(faults):
        # Never two at the same moment: a daemon that has just started makes progress before the next fault.
        at = (number + rng.uniform(0.25, 0.75)) * gap_seconds
        steps.append(_step(rng, round(at, 2), classes[number % len(classes)], number, daemons))
    return steps


def _step(rng: random.Random, at: float, one: tuple[Action, str, str], number: int, daemons: int) -> Step:
    action, calls, how = one
    daemon: int | None = rng.randrange(daemons)
    lasting, job = 0.0, ""
    match action:
        case Action.FREEZE_DAEMON:
            lasting = PAST_THE_LEASE_SECONDS + rng.uniform(0, 2)
        case Action.TERM_THEN_KILL:
            lasting = rng.uniform(0, MAX_GRACE_SECONDS)
        case Action.FAULT:
            calls = calls or ("s3:GET:*" if how == Fault.SHORT_RANGE else rng.choice(FAULTED_CALLS))
            lasting = rng.uniform(1, 5)
            daemon = daemon if rng.random() < 0.5 else None
        case Action.TRAP:
            daemon = None
        case Action.REFUSE_RECORDING:
            daemon, job = None, f"refused-{number:05d}"
            calls = f"s3:GET:{job}.wav"
        case Action.REFUSE_LETTERS:
            daemon, job, lasting = None, f"letter-{number:05d}", rng.uniform(3, 8)
        case Action.EXPIRE_MESSAGE:
            daemon, job = None, f"expired-{number:05d}"
        case Action.ROTATE_KEYS:
            lasting = rng.uniform(0, 3)
            daemon = daemon if rng.random() < 0.5 else None
    return Step(at, action, daemon, round(lasting, 2), calls, how, job)
