"""What goes wrong, and when: fixed by the seed before anything starts, so that a failure can be had again."""

import random
from dataclasses import dataclass
from enum import StrEnum

# Longer than the lease that the daemons take (see site.py): whoever is silent for so long has lost its messages.
PAST_THE_LEASE_SECONDS = 8.0


class Action(StrEnum):
    KILL_DAEMON = "kill daemon"  # SIGKILL; the supervisor starts another
    KILL_RUNNER = "kill runner"  # SIGKILL to the child that holds the models
    TERM_DAEMON = "term daemon"  # SIGTERM: a deployment
    FREEZE_DAEMON = "freeze daemon"  # SIGSTOP, and SIGCONT when its leases are gone
    FAULT = "fault"  # matching calls go wrong for a while
    TRAP = "trap"  # the next matching call of any daemon is its last: SIGKILL at that very call


class Fault(StrEnum):
    ERROR = "error"  # 500
    SLOW_DOWN = "slow down"  # 503 with the code for it
    THROTTLED = "throttled"  # 400 with the code for it
    GARBAGE = "garbage"  # 502 and a page of HTML, as proxies answer
    LATENCY = "latency"
    BLACK_HOLE = "black hole"  # taken, never answered
    RESET = "reset"  # the connection breaks before the call arrives
    LOST_ANSWER = "lost answer"  # the call arrives, and is carried out; the answer does not come back
    CUT_ANSWER = "cut answer"  # half of the answer comes back


class Moment(StrEnum):
    BEFORE = "before"  # the call never arrives
    AFTER = "after"  # it is carried out, and nobody lives to hear of it
    LATE = "late"  # it arrives when the caller is dead and its lease over


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


# Where a crash hurts most: between two calls that together are one outcome.
TRAPS = (
    ("s3:PUT:transcript.json", Moment.AFTER),
    ("s3:PUT:transcript.json", Moment.LATE),
    ("s3:PUT:manifest.json", Moment.BEFORE),
    ("s3:PUT:manifest.json", Moment.AFTER),
    ("s3:PUT:manifest.json", Moment.LATE),
    ("sqs:DeleteMessage", Moment.BEFORE),
    ("sqs:DeleteMessage", Moment.AFTER),
    ("sqs:SendMessage", Moment.AFTER),  # the dead letter is sent, its original not deleted
    ("sqs:ReceiveMessage", Moment.AFTER),
)

FAULTED_CALLS = ("sqs:*", "s3:*", "s3:PUT:*", "s3:GET:*", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "*")


def plan(seed: int, seconds: float, daemons: int) -> list[Step]:
    """The schedule of a run: a step in about two seconds, every action and every fault in it if there is time for that."""
    rng = random.Random(seed)
    wanted: list[tuple[Action, str, str]] = [
        *((Action.TRAP, calls, moment) for calls, moment in TRAPS),
        *((Action.FAULT, rng.choice(FAULTED_CALLS), fault) for fault in Fault),
        *((action, "", "") for action in Action if action not in (Action.FAULT, Action.TRAP) for _ in range(3)),
    ]
    rng.shuffle(wanted)
    steps: list[Step] = []
    at = 0.0
    # Slow enough that a daemon that has just started gets something done before it is hurt again.
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
