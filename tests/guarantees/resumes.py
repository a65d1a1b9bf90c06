"""What clients of ``stabilizer.v1`` miss by a fault. One trial is a short chaos run, whose history is counted."""

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.history import History
from tests.chaos.logs import CHECKS, Logs, missing, walk
from tests.chaos.run import LEASE_S, chaos
from tests.chaos.schedule import LOGGED, Schedule, Step

FOLLOWERS = 8
FAULT_S = 2.0
LASTS_S = 8.0
RATE = 50
"""Stored messages per second."""


@dataclass(frozen=True, slots=True)
class Resume:
    """One line of the table: a fault, and what clients are told."""

    fault: str
    outcome: str
    steps: tuple[Step, ...]
    size: int = 0
    """Bytes that each message is padded to."""
    keeps: str = "keep"
    """What keeps the messages: in rooms, or in mailboxes."""


RESUMES = {
    "resume-replica-killed": Resume(
        "A replica is killed (`kill -9`)", "continue on another replica", (Step(FAULT_S, "kill", 0),)
    ),
    "resume-replica-drained": Resume(
        "A replica is drained and replaced (`SIGTERM`)",
        "continue on another replica, beside the old socket",
        (Step(FAULT_S, "roll", 0),),
    ),
    "resume-clients-away": Resume(
        "All clients lose their network for 1.5 s",
        "continue",
        tuple(Step(FAULT_S, "go away", follower=n, lasts_s=1.5) for n in range(FOLLOWERS)),
    ),
    "resume-mailbox": Resume(
        "All clients lose their network for 3 s, and the replica of half of them is killed (`kill -9`). Messages are "
        "stored in their mailboxes",
        "continue on another replica",
        (
            Step(FAULT_S, "kill", 0),
            *(Step(FAULT_S, "go away", follower=n, lasts_s=3.0) for n in range(FOLLOWERS)),
        ),
        keeps="keep box",
    ),
    "resume-bus-killed": Resume(
        "The bus connections are killed (`CLIENT KILL TYPE pubsub`)",
        "continue on the same socket",
        (Step(FAULT_S, "kill pubsub"),),
    ),
    "resume-slow-client": Resume(
        "All clients stop reading for 3 s. Messages have 16 KiB, so 0.8 to 1.6 MB wait for each",
        "continue on the same socket",
        tuple(Step(FAULT_S, "doze", follower=n, lasts_s=3.0) for n in range(FOLLOWERS)),
        size=16_384,
    ),
    "resume-redis-frozen": Resume(
        "Redis is frozen for 3 s",
        "continue; messages that could not be stored raise",
        (Step(FAULT_S, "freeze redis", lasts_s=3.0),),
    ),
    "resume-while-redis-is-away": Resume(
        "All clients lose their network for 1.5 s, and come back while Redis is frozen for 4 s",
        "continue when Redis is back; messages that could not be stored raise",
        (
            Step(FAULT_S, "freeze redis", lasts_s=4.0),
            *(Step(FAULT_S, "go away", follower=n, lasts_s=1.5) for n in range(FOLLOWERS)),
        ),
    ),
    "resume-redis-stale": Resume(
        "Redis comes back without its last 0.5 s, as after a failover",
        "continue if a replica has the lost entries, otherwise `lost`",
        (Step(FAULT_S, "restart stale", lasts_s=0.5),),
    ),
    "resume-redis-flushed": Resume(
        "Every key is deleted (`FLUSHALL`)",
        "`lost` for each log, before any later message",
        (Step(FAULT_S, "flush"),),
    ),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts of one trial.

    Attributes:
        received: Stored messages that clients got.
        missed: Stored messages that a client missed without being told.
        repeated: Messages that a client got more than once.
        losses: Logs that clients were told to have lost.
        delay_s: Longest time from the storing of a message until its client got it.
    """

    received: int
    missed: int
    repeated: int
    losses: int
    delay_s: float


Counts = dict[str, list[Counted]]

TABLE = """
## Resume

Each fault hits two replicas with {followers} clients of `stabilizer.v1`, while {rate} messages a second are stored
in three rooms. The lease is {lease_s:g} s. The delay is the longest one from the storing of a message until a client
got it. A client that connects chooses a replica at random, also one that is down. Missed and repeated messages are
counted over all clients and trials.

| `--only` | fault | clients | missed | repeated | lost logs told | median delay | worst | trials |
|---|---|---|---|---|---|---|---|---|
"""


async def trial(resume: Resume) -> Counted:
    """Run one trial.

    Raises:
        AssertionError: A promise of logs was broken in another way than by a missed or repeated message.
    """
    keeping = [
        Step(0.5 + n / RATE, resume.keeps, n % 2, 1, LOGGED[n % 3], size=resume.size, follower=n % FOLLOWERS)
        for n in range(int(LASTS_S - 1) * RATE)
    ]
    steps = tuple(sorted([*keeping, *resume.steps], key=lambda step: step.at_s))
    schedule = Schedule(0, LASTS_S, replicas=2, clients=2, steps=steps, followers=FOLLOWERS, abrupt=0.0)
    history = await chaos(schedule)
    counted = count(history)
    broken = [f"{name}: {what}" for name, check in CHECKS.items() for what in check(history)]
    assert counted.missed or counted.repeated or not broken, broken
    return counted


def count(history: History) -> Counted:
    """Count what the clients of a history got and missed."""
    logs, received, missed, repeated, losses, delay_s = Logs(history), 0, 0, 0, 0, 0.0
    for follower in history.followers:
        way = walk(logs, follower)
        entries = [heard for heard in follower.heard if heard.what == "entry" and heard.id]
        places = [(step, step.heard.log, step.heard.id) for step in way.steps if step.heard.what == "entry"]
        places += [(place, log, 2**53) for log, place in way.last.items() if follower.is_live]
        missed += sum(len(missing(history, logs, follower, *place)) for place in places)
        received += len(entries)
        repeated += sum(times - 1 for times in Counter(heard.text for heard in entries).values())
        losses += sum(heard.what == "lost" for heard in follower.heard)
        delay_s = max([delay_s, *(heard.at_s - logs.at_s(heard.id) for heard in entries)])
    return Counted(received, missed, repeated, losses, delay_s)


def table(counts: Counts, words: Callable[[float], str]) -> str:
    """Return the table as Markdown. ``words`` shows seconds."""
    if not counts:
        return ""
    lines = [TABLE.format(followers=FOLLOWERS, rate=RATE, lease_s=LEASE_S)]
    for name, trials in counts.items():
        resume, delays = RESUMES[name], [each.delay_s for each in trials]
        missed, repeated = sum(each.missed for each in trials), sum(each.repeated for each in trials)
        losses = sum(each.losses for each in trials)
        shown = (
            f"{missed} | {repeated} | {losses} | {words(statistics.median(delays))} | {words(max(delays))}"
        )
        lines.append(f"| `{name}` | {resume.fault} | {resume.outcome} | {shown} | {len(trials)} |\n")
    return "".join(lines)
