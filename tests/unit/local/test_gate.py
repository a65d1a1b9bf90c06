"""The gate: never more inside than the limit, nobody forgotten."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.local.gate import Gate


def caller(gate: Gate, called: list[int], number: int) -> Callable[[], None]:
    def enter() -> None:
        called.append(number)
        gate.enter()

    return enter


def test_gate_is_open_below_the_limit() -> None:
    gate = Gate(lambda: 2)
    states = [gate.is_open()]
    for _ in range(2):
        gate.enter()
        states.append(gate.is_open())
    assert states == [True, True, False]


def test_whoever_waits_longest_is_called_when_one_leaves() -> None:
    gate, called = Gate(lambda: 1), list[int]()
    gate.enter()
    for number in (1, 2):
        gate.wait(caller(gate, called, number))
    gate.leave()
    assert (called, gate.is_open(), gate.deferred) == ([1], False, 2)


def test_one_that_does_not_enter_lets_the_next_one_in() -> None:
    gate, called = Gate(lambda: 1), list[int]()
    gate.enter()
    gate.wait(lambda: called.append(1))
    gate.wait(caller(gate, called, 2))
    gate.leave()
    assert called == [1, 2]


def test_raised_limit_lets_more_in_when_one_leaves() -> None:
    limit, called = [1], list[int]()
    gate = Gate(lambda: limit[0])
    gate.enter()
    for number in (1, 2, 3):
        gate.wait(caller(gate, called, number))
    limit[0] = 2
    gate.leave()
    assert called == [1, 2]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_gate_is_never_overfull_and_calls_in_order(arrivals: list[bool], limit: int) -> None:
    """True is somebody who comes, False one who is inside and leaves."""
    gate, called, inside, waiting = Gate(lambda: limit), list[int](), 0, 0
    for number, comes in enumerate(arrivals):
        if comes and gate.is_open():
            gate.enter()
            inside += 1
        elif comes:
            gate.wait(caller(gate, called, number))
            waiting += 1
        elif inside:
            gate.leave()
            inside, waiting = (inside, waiting - 1) if waiting else (inside - 1, 0)
        assert gate.is_open() is (inside < limit)
        assert (called == sorted(called), len(called)) == (True, gate.deferred - waiting)
