"""What is explored: each family has few things of each kind, and all their orders."""

from .world import Action, Family

WARM: tuple[Action, ...] = (
    ("attach", 0, 0), ("sub", 0, "a"), ("bus", 0), ("exec", 0, "a"), ("answer", 0, "a"),
)  # fmt: skip

BOTH_WARM: tuple[Action, ...] = (
    *WARM, ("attach", 1, 1), ("sub", 1, "a"), ("bus", 1), ("exec", 1, "a"), ("answer", 1, "a"),
    ("append", "a"), ("bus", 0), ("bus", 1),
)  # fmt: skip


def steps(names: str) -> frozenset[str]:
    return frozenset(names.split())


def per(text: str) -> tuple[tuple[str, int], ...]:
    """Parse "append 3, lose 1"."""
    return tuple((name, int(count)) for name, count in (part.split() for part in text.split(",")))


FAMILIES = (
    Family(
        "first member",
        steps=steps("append attach detach unsub whisper"),
        budget=per("append 3, attach 2, whisper 1, unsub 1"),
        deep=per("append 4, attach 3, whisper 1, unsub 2"),
    ),
    Family(
        "members share reads",
        clients=2,
        start=WARM,
        steps=steps("append attach detach unsub"),
        budget=per("append 3, attach 3, detach 2, unsub 1"),
        deep=per("append 4, attach 4, detach 3, unsub 2"),
    ),
    Family(
        "a replay is cut off",
        start=WARM,
        steps=steps("append attach detach cut_off"),
        budget=per("append 2, attach 2, detach 1, cut_off 1"),
        deep=per("append 4, attach 3, detach 2, cut_off 2"),
    ),
    Family(
        "bus loses",
        clients=2,
        start=WARM,
        steps=steps("append lose attach detach compare"),
        budget=per("append 3, lose 2, attach 2, detach 1, compare 1"),
        deep=per("append 4, lose 3, attach 3, detach 2, compare 2"),
    ),
    Family(
        "bus breaks",
        clients=2,
        start=WARM,
        steps=steps("append break attach cut_off fail"),
        budget=per("append 3, break 2, attach 2, cut_off 1, fail 1"),
        deep=per("append 4, break 2, attach 3, cut_off 2, fail 2"),
    ),
    Family(
        "lists expire",
        start=(*WARM, ("append", "a"), ("bus", 0)),
        steps=steps("append attach detach unsub expire forget tick beat"),
        budget=per("append 2, attach 1, detach 1, unsub 1, tick 1, beat 1"),
        deep=per("append 3, attach 2, detach 2, unsub 1, tick 2, beat 2"),
    ),
    Family(
        "a log begins again",
        clients=2,
        start=(
            *WARM,
            ("detach", 0),
            ("unsub", 0, "a"),
            ("append", "a"),
            ("expire", "a"),
            ("tick",),
            ("forget", "a"),
        ),
        steps=steps("append attach detach beat expire"),
        budget=per("append 2, attach 2, detach 1, beat 1"),
        deep=per("append 3, attach 3, detach 2, beat 1"),
    ),
    Family(
        "lists are trimmed",
        start=(*WARM, ("append", "a"), ("bus", 0), ("trim", "a")),
        tail=1,
        ring=1,
        queue=2,
        steps=steps("append attach detach lose trim lag compare"),
        budget=per("append 3, attach 1, detach 1, lose 1, trim 1, lag 1, compare 1"),
        deep=per("append 3, attach 2, detach 2, lose 2, trim 2, lag 2, compare 1"),
    ),
    Family(
        "reads in three steps",
        start=(*WARM[:-1], ("list", 0, "a"), ("meta", 0, "a"), WARM[-1], ("append", "a"), ("bus", 0)),
        split_reads=True,
        steps=steps("append attach detach expire trim lose"),
        budget=per("append 3, attach 1, detach 1, trim 1, lose 1"),
        deep=per("append 4, attach 1, detach 1, trim 1, lose 2"),
    ),
    Family(
        "a list expires while it is read",
        start=(
            *WARM[:-1],
            ("list", 0, "a"),
            ("meta", 0, "a"),
            WARM[-1],
            ("detach", 0),
            ("append", "a"),
            ("unsub", 0, "a"),
        ),
        split_reads=True,
        steps=steps("append attach detach expire"),
        budget=per("append 2, attach 2, detach 1"),
        deep=per("append 3, attach 3, detach 2"),
    ),
    Family(
        "a cut log expires",
        start=(*WARM, ("append", "a"), ("bus", 0), ("delete", "a"), ("bus", 0)),
        steps=steps("append attach detach expire lose compare"),
        budget=per("append 2, attach 1, detach 1, lose 1, compare 1"),
        deep=per("append 3, attach 2, detach 2, lose 2, compare 1"),
    ),
    Family(
        "deleted and flushed",
        start=(*WARM, ("append", "a"), ("bus", 0)),
        steps=steps("append attach detach delete flush lose tick beat"),
        budget=per("append 2, attach 1, detach 1, delete 1, flush 1, lose 1, tick 0, beat 0"),
        deep=per("append 3, attach 2, detach 2, delete 1, flush 1, lose 1, tick 1, beat 2"),
    ),
    Family(
        "mailbox",
        start=WARM,
        box=("a",),
        steps=steps("append attach detach whisper"),
        budget=per("append 3, attach 1, detach 1, whisper 1"),
        deep=per("append 4, attach 2, detach 2, whisper 1"),
    ),
    Family(
        "two nodes",
        nodes=2,
        start=WARM,
        steps=steps("append attach detach lose crash"),
        budget=per("append 2, attach 1, detach 1, lose 1, crash 1"),
        deep=per("append 3, attach 3, detach 2, lose 1, crash 1"),
    ),
    Family(
        "two nodes and two clients",
        nodes=2,
        clients=2,
        start=BOTH_WARM,
        steps=steps("append attach detach"),
        budget=per("append 2, attach 1, detach 1"),
        deep=per("append 3, attach 2, detach 2"),
    ),
    Family(
        "a read is shared with a client of another node",
        nodes=2,
        clients=2,
        start=(*WARM, ("attach", 1, 1), ("sub", 1, "a"), ("bus", 1)),
        homes=((0, 1), (1,)),
        steps=steps("append attach detach"),
        budget=per("append 2, attach 1, detach 1"),
        deep=per("append 3, attach 2, detach 2"),
    ),
    Family(
        "failover, one node",
        start=(*WARM, ("append", "a"), ("bus", 0), ("append", "a")),
        steps=steps("append attach detach failover"),
        budget=per("append 2, attach 1, detach 1, failover 1"),
        deep=per("append 2, attach 2, detach 2, failover 1"),
    ),
    Family(
        "failover, two nodes",
        nodes=2,
        clients=2,
        start=(*BOTH_WARM, ("append", "a"), ("bus", 0), ("lose", 1, 0)),
        steps=steps("append failover"),
        budget=per("append 1, failover 1"),
        deep=per("append 2, failover 1"),
    ),
    Family(
        "return after failover",
        nodes=2,
        start=(
            *WARM,
            ("append", "a"),
            ("bus", 0),
            ("append", "a"),
            ("bus", 0),
            ("detach", 0),
            ("attach", 0, 1),
            ("failover", 2, False),
            ("switch", 0),
            ("switch", 1),
        ),
        steps=steps("append break"),
        budget=per("append 1, break 0"),
        deep=per("append 2, break 1"),
    ),
    Family(
        "crash after failover",
        nodes=2,
        start=(*WARM, ("append", "a"), ("bus", 0), ("append", "a"), ("bus", 0)),
        steps=steps("append failover attach crash"),
        budget=per("append 0, failover 1, attach 1, crash 1"),
        deep=per("append 2, failover 1, attach 2, crash 1"),
    ),
    Family(
        "one message in two logs",
        logs=("a", "b"),
        steps=steps("append both attach cut_off"),
        budget=per("append 1, both 1, other 0, attach 2, cut_off 1"),
        deep=per("append 2, both 1, other 0, attach 3, cut_off 2"),
    ),
)
