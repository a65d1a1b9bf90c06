"""Longer schedules than the exploration reaches: more nodes, members, entries and logs, in random orders."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from .families import steps
from .world import Action, Family, World

EVERYTHING = Family(
    "everything",
    nodes=2,
    clients=4,
    logs=("a", "b"),
    tail=3,
    ring=4,
    queue=5,
    split_reads=True,
    steps=steps(
        "append both whisper trim expire forget tick beat lose break fail compare unsub attach detach cut_off lag"
        " delete"
    ),
    budget=(("both", 1), ("other", 0), ("delete", 2), ("tick", 4)),
)
FAILOVER = Family(
    "failover",
    nodes=3,
    clients=4,
    tail=3,
    ring=4,
    queue=5,
    steps=steps("append trim lose break fail compare unsub attach detach cut_off lag failover crash"),
    budget=(("failover", 1), ("crash", 1)),
)
CALM = {
    "lose",
    "break",
    "fail",
    "trim",
    "expire",
    "forget",
    "cut_off",
    "unsub",
    "crash",
    "delete",
    "failover",
}
"""Steps that are seldom taken, so that the others get somewhere."""


class Schedule(RuleBasedStateMachine):
    """Takes one possible step after another, and lets everything come to rest at times."""

    family = EVERYTHING

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.family)

    @rule(pick=st.integers(0, 999), is_rough=st.integers(0, 7))
    def step(self, pick: int, is_rough: int) -> None:
        possible = [action for action in self.world.actions() if self._is_wanted(action, is_rough)]
        if possible:
            self.world = self.world.after(possible[pick % len(possible)])

    def _is_wanted(self, action: Action, is_rough: int) -> bool:
        return is_rough == 0 or action[0] not in CALM

    @rule(count=st.integers(1, 20))
    def go_on(self, count: int) -> None:
        for _ in range(count):
            action = next(self.world.progress(), None)
            if action is not None:
                self.world = self.world.after(action)

    def teardown(self) -> None:
        self.world.settle()


class Failovers(Schedule):
    family = FAILOVER


OPTIONS = settings(
    max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSchedules = Schedule.TestCase
TestSchedules.settings = OPTIONS
TestFailovers = Failovers.TestCase
TestFailovers.settings = OPTIONS
