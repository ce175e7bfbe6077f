"""The faults of a run and their times, determined by the seed before anything starts, so that a failure can be
reproduced."""

import random
from dataclasses import dataclass
from enum import StrEnum

# Longer than the daemons' lease (see site.py): a daemon that is frozen this long has lost its messages.
PAST_THE_LEASE_SECONDS = 8.0


class Action(StrEnum):
    KILL_DAEMON = "kill daemon"  # SIGKILL; the supervisor starts another one
    KILL_RUNNER = "kill runner"  # SIGKILL to the child process that holds the models
    TERM_DAEMON = "term daemon"  # SIGTERM: a deployment
    FREEZE_DAEMON = "freeze daemon"  # SIGSTOP, then SIGCONT once its leases have expired
    FAULT = "fault"  # matching calls fail for a while
    TRAP = "trap"  # the caller of the next matching call gets SIGKILL at that call


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


class Moment(StrEnum):
    BEFORE = "before"  # the call never arrives
    AFTER = "after"  # it is executed, but the caller is dead
    LATE = "late"  # it arrives when the caller is dead and its lease has expired


@dataclass(frozen=True, slots=True)
class Step:
    at: float  # seconds from the start
    action: Action
    daemon: int | None = None  # None: all of them
    seconds: float = 0.0
    calls: str = ""  # pattern of proxy.call_name
    how: str = ""  # a Fault or a Moment

    def __str__(self) -> str:
        who = "all daemons" if self.daemon is None else f"daemon {self.daemon}"
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        what = f" {self.how} at {self.calls}" if self.calls else ""
        return f"{self.at:6.1f} s  {self.action}{what}, {who}{lasting}"


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


def plan(seed: int, seconds: float, daemons: int) -> list[Step]:
    """Return the schedule of a run: about one step every two seconds, covering every action and every fault if time
    permits."""
    rng = random.Random(seed)
    wanted: list[tuple[Action, str, str]] = [
        *((Action.TRAP, calls, moment) for calls, moment in TRAPS),
        *(
            (Action.FAULT, "s3:GET:*" if fault is Fault.SHORT_RANGE else rng.choice(FAULTED_CALLS), fault)
            for fault in Fault
        ),
        *((action, "", "") for action in Action if action not in (Action.FAULT, Action.TRAP) for _ in range(3)),
    ]
    rng.shuffle(wanted)
    steps: list[Step] = []
    at = 0.0
    # Slow enough that a daemon that has just started makes progress before the next fault.
    while (at := at + rng.uniform(1, 3)) < seconds:
        action, calls, how = wanted[len(steps) % len(wanted)]
        daemon = None if action is Action.TRAP else rng.randrange(daemons)
        lasting = 0.0
        if action is Action.FREEZE_DAEMON:
            lasting = PAST_THE_LEASE_SECONDS + rng.uniform(0, 2)
        elif action is Action.FAULT:
            lasting = rng.uniform(1, 5)
            if rng.random() < 0.5:
                daemon = None
        steps.append(Step(round(at, 2), action, daemon, round(lasting, 2), calls, how))
    return steps
