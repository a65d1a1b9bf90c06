"""Kinds of steps in a schedule."""

from tests.chaos.run import Run
from tests.chaos.schedule import ACTIONS, FAULTS, OF_FOLLOWERS


def test_every_kind_of_step_is_carried_out() -> None:
    """``Run`` finds its methods by the kinds of steps."""
    assert [
        kind for kind in (*ACTIONS, *OF_FOLLOWERS, *FAULTS) if not hasattr(Run, "_" + kind.replace(" ", "_"))
    ] == []
