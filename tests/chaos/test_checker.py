"""The checker finds each broken promise in a handmade history, and nothing in a good one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import logs
from tests.chaos.checker import CHECKS, violations
from tests.chaos.history import Call, Event, Fault, Final, History, Process, Seen, Socket, message

ALICE, BOB = "alice", "bob"
TO_ALL = [message("all", "", "r0.1", number) for number in (1, 2, 3)]
TO_ROOM = [message("room", "lobby", f"r{number}.1", 9) for number in (0, 1)]


def good() -> History:
    """Return the history of two clients on two replicas, one of which was killed and restarted."""
    history = History(lease_s=2.0, beat_s=0.5, call_limit_s=5.0)
    history.processes = [Process("r0.1"), Process("r1.1", died_s=10.0), Process("r1.2")]
    history.faults = [Fault("kill", "r1.1", 10.0, 10.0)]
    alice = Socket(ALICE, "r0.1", asked_s=1.0, opened_s=1.1, got=[*TO_ALL, TO_ROOM[0], TO_ROOM[1]])
    lost = Socket(BOB, "r1.1", asked_s=1.0, opened_s=1.1, closed_s=10.0, code=1006, reason="ConnectionReset")
    bob = Socket(BOB, "r1.2", asked_s=11.0, opened_s=11.1, got=[TO_ALL[2], *TO_ROOM])
    history.sockets = [alice, lost, bob]
    history.calls = [
        Call("r0.1", "say", 2.0, 2.1, "ok"),
        Call("r0.1", "join", 2.0, 6.5, "BackendUnavailableError"),
    ]
    history.events = [
        Event("r0.1", "a:joined", "joined", ALICE, "n0.1", at_s=1.1),
        Event("r0.1", "n0.1:1:joined:lobby", "room_joined", ALICE, "n0.1", "lobby", at_s=1.2),
        Event("r1.1", "b:joined", "joined", BOB, "n1.1", at_s=1.1),
        Event("r0.1", "b:left", "left", BOB, "n1.1", at_s=12.0),
        Event("r1.2", "c:joined", "joined", BOB, "n2.1", at_s=12.5),
        Event("r1.2", "c:left", "left", BOB, "n2.1", at_s=20.0),
        Event("r0.1", "n0.1:1:left:lobby", "room_left", ALICE, "n0.1", "lobby", at_s=20.0),
        Event("r0.1", "a:left", "left", ALICE, "n0.1", at_s=20.0),
    ]
    names = {"n0": "r0.1", "n1": "r1.1", "n2": "r1.2"}
    history.seen = [Seen("r0.1", 11.0, [(ALICE, "n0"), (BOB, "n1")], names)]
    rooms = {"lobby": [ALICE, BOB]}
    history.finals = [
        Final("r0.1", is_ready=True, clients=[ALICE, BOB], rooms=rooms, local={ALICE: ["lobby"]}),
        Final("r1.2", is_ready=True, clients=[ALICE, BOB], rooms=rooms, local={BOB: ["lobby"]}),
    ]
    history.probes = [TO_ROOM[1], TO_ALL[2], message("direct", "nobody", "r0.1", 10)]
    return history


def hears_twice(history: History) -> None:
    history.sockets[0].got.append(TO_ALL[2])


def hears_backwards(history: History) -> None:
    history.sockets[2].got = [TO_ALL[2], TO_ALL[1], *TO_ROOM]


def hears_another_order(history: History) -> None:
    history.sockets[2].got = [TO_ALL[2], TO_ROOM[1], TO_ROOM[0]]


def does_not_hear(history: History) -> None:
    history.sockets[2].got.remove(TO_ALL[2])


def has_two_sockets(history: History) -> None:
    history.sockets.append(Socket(ALICE, "r1.2", asked_s=12.0, opened_s=12.1, got=list(history.probes)))


def replaces_the_last(history: History) -> None:
    history.sockets[2].closed_s, history.sockets[2].reason = 12.0, "reconnected"


def is_not_listed(history: History) -> None:
    history.finals[0].clients.remove(BOB)


def is_listed_twice(history: History) -> None:
    history.finals[0].clients.append(BOB)


def lists_a_ghost(history: History) -> None:
    history.finals[1].clients.append("carol")


def misses_a_member(history: History) -> None:
    history.finals[1].rooms = {"lobby": [ALICE]}


def shows_the_dead(history: History) -> None:
    history.seen[0].at_s = 10.0 + 2.0 + 2 * 0.5 + 3.1


def reports_twice(history: History) -> None:
    history.events.append(replace(history.events[-1], process="r1.2"))


def reports_a_leave_under_two_names(history: History) -> None:
    history.events.append(Event("r1.2", "n0.1:left", "left", ALICE, "n0.1", at_s=20.0))


def reports_no_leave(history: History) -> None:
    del history.events[3]


def reports_that_a_client_came_again(history: History) -> None:
    history.events.append(Event("r0.1", "d:joined", "joined", ALICE, "n0.2", at_s=15.0))


def reports_no_leave_of_a_room(history: History) -> None:
    del history.events[-2]


def reports_nobody(history: History) -> None:
    history.sockets.append(Socket("carol", "r1.1", 1.0, 1.1, 10.0))


def hangs(history: History) -> None:
    history.calls.append(Call("r0.1", "say", 20.0, 28.1, "ok"))


def fails_without_a_name(history: History) -> None:
    history.calls.append(Call("r0.1", "say", 20.0, 20.1, "unnamed KeyError('x')"))


def is_not_ready(history: History) -> None:
    history.finals[0].is_ready = False


def leaves_keys(history: History) -> None:
    history.leftovers.append("ns:{n2}:connections")


@pytest.mark.parametrize(
    ("spoil", "invariant"),
    [
        (hears_twice, "at most once"),
        (hears_backwards, "order"),
        (hears_another_order, "one order"),
        (does_not_hear, "reached"),
        (has_two_sockets, "one socket"),
        (replaces_the_last, "last claim"),
        (is_not_listed, "listed"),
        (is_listed_twice, "listed"),
        (lists_a_ghost, "no ghost"),
        (misses_a_member, "rooms"),
        (shows_the_dead, "death"),
        (reports_twice, "reported once"),
        (reports_a_leave_under_two_names, "joins and leaves"),
        (reports_no_leave, "joins and leaves"),
        (reports_that_a_client_came_again, "joins and leaves"),
        (reports_no_leave_of_a_room, "room joins and leaves"),
        (reports_nobody, "left at all"),
        (hangs, "no call hangs"),
        (fails_without_a_name, "named errors"),
        (is_not_ready, "ready"),
        (leaves_keys, "leaves nothing"),
    ],
)
def test_a_broken_promise_is_named(spoil: Callable[[History], None], invariant: str) -> None:
    history = good()
    spoil(history)
    assert invariant in {violation.partition(":")[0] for violation in violations(history)}


def test_a_good_history_breaks_none() -> None:
    assert violations(good()) == []


def test_every_check_has_a_history_that_it_finds() -> None:
    (mark,) = test_a_broken_promise_is_named.pytestmark  # type: ignore[attr-defined]  # pytest put it there
    assert {invariant for _, invariant in mark.args[1]} == set(CHECKS) - set(logs.CHECKS)


def test_a_call_may_take_as_long_as_its_process_was_frozen() -> None:
    history = good()
    hangs(history)
    history.faults.append(Fault("freeze", "r0.1", 21.0, 27.0))
    assert violations(history) == []


def test_a_message_whose_call_failed_may_come_late() -> None:
    history, late = good(), message("direct", BOB, "r0.1", 2)
    history.sockets[2].got.append(late)
    assert [violation.partition(":")[0] for violation in violations(history)] == ["order"]
    history.unknown.append(late)
    assert violations(history) == []


def test_a_leave_may_be_reported_again_when_its_reporter_was_cut_off() -> None:
    history = good()
    reports_twice(history)
    history.faults.append(Fault("cut", "r0.1", 19.0, 22.0))
    assert violations(history) == []


def test_a_leave_is_not_excused_by_what_was_cut_off_long_before() -> None:
    history = good()
    reports_twice(history)
    history.faults.append(Fault("cut", "r0.1", 2.0, 5.0))
    assert [violation.partition(":")[0] for violation in violations(history)] == ["reported once"]


@pytest.mark.parametrize("spoil", [reports_no_leave, reports_no_leave_of_a_room])
def test_what_redis_lost_of_a_replica_that_did_not_answer_for_it_nobody_can_report(
    spoil: Callable[[History], None],
) -> None:
    history = good()
    spoil(history)
    history.faults.append(Fault("flush", "redis", 10.5, 10.5))
    history.faults.append(Fault("freeze", "r0.1", 9.0, 12.0))
    assert violations(history) == []


def test_a_loss_of_redis_excuses_nothing_of_a_replica_that_was_there() -> None:
    history = good()
    reports_that_a_client_came_again(history)
    history.faults.append(Fault("flush", "redis", 14.0, 14.0))
    assert [violation.partition(":")[0] for violation in violations(history)] == ["joins and leaves"]


def test_a_replica_that_was_cut_off_may_show_the_dead_a_little_longer() -> None:
    history = good()
    shows_the_dead(history)
    history.faults.append(Fault("cut", "r0.1", 12.0, 15.0))
    assert violations(history) == []


def test_keys_of_one_that_died_without_knowing_that_its_lease_was_gone_are_nobodys() -> None:
    history = good()
    history.leftovers.append("ns:{n1}:connections")
    history.faults.append(Fault("flush", "redis", 9.5, 9.5))
    assert violations(history) == []


def test_a_history_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    history = good()
    history.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    assert loaded.sockets == history.sockets
    assert violations(loaded) == []
