"""The checker of logs finds each broken promise in a handmade history, and nothing in a sound one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.history import (
    EVERYBODY,
    Bounds,
    Fault,
    Follower,
    Heard,
    History,
    Membership,
    Stored,
    mailbox_of,
    message,
)
from tests.chaos.logs import CHECKS

START_US = 1_700_000_000_000_000
LOBBY, PORCH, ANN = "kept-lobby", "kept-porch", "ann"
MAILBOX = mailbox_of(ANN)
TO_ALL, TO_ANN = message("everybody", "", "r0.1", 31), message("box", ANN, "r0.1", 32)
UNKNOWN, VOLATILE = message("kept", LOBBY, "r0.1", 33), message("room", LOBBY, "r0.1", 34)


def at(seconds: float) -> int:
    """Return the id of a message that was stored at this time."""
    return START_US + int(seconds * 1_000_000)


def text(number: int) -> str:
    return message("kept", LOBBY, "r0.1", number, ANN if number == 4 else "")


def entry(number: int, at_s: float, log: str = LOBBY) -> Heard:
    """Return the receipt of the message that was stored at ``number`` seconds."""
    return Heard(at_s, "entry", log, at(number), text(number))


def hi(at_s: float, resumed: bool | None, **positions: int) -> Heard:
    named = {log.replace("_", "-"): at(seconds) for log, seconds in positions.items()}
    return Heard(at_s, "hi", resumed=resumed, had_cursor=resumed is not None, positions=dict(named))


def sound() -> History:
    """Return the history of a client that went away, came back, and was told of the loss by a flush.

    Message n was stored at second n. Messages 2 and 12 went to two rooms, message 4 excludes the client.
    """
    history = History(lease_s=2.0, beat_s=0.5, call_limit_s=5.0, start_us=START_US)
    history.bounds = {log: Bounds(100, 60) for log in (LOBBY, PORCH, EVERYBODY, MAILBOX)}
    history.stored = [Stored(text(n), {LOBBY: at(n)}) for n in range(1, 21)]
    history.stored[1].ids[PORCH] = at(2) + 1
    history.stored[11].ids[PORCH] = at(12) + 1
    history.stored += [Stored(TO_ALL, {EVERYBODY: at(5)}), Stored(TO_ANN, {MAILBOX: at(5)})]
    history.faults = [Fault("flush", "redis", 15.3, 15.4)]
    before = [entry(n, n) for n in (1, 2, 3)]
    others = [
        Heard(5, "entry", EVERYBODY, at(5), TO_ALL),
        Heard(5, "entry", MAILBOX, at(5), TO_ANN),
        Heard(5, "entry", LOBBY, 0, VOLATILE),
    ]
    while_away = [entry(n, 10) for n in (5, 6, 7, 8, 9)]
    live = [entry(n, n) for n in (11, 13, 14, 15)]
    copy = Heard(12, "entry", PORCH, at(12) + 1, text(12))
    behind = [entry(n, n) for n in (19, 20)]
    lost = [
        replace(hi(18.5, False, kept_lobby=18, kept_porch=18), lost=2),
        Heard(18.5, "lost", LOBBY, at(18), "reset"),
        Heard(18.5, "lost", PORCH, 0, "reset"),
    ]
    first = hi(0, None, kept_lobby=0, kept_porch=0, everybody=0)
    first.positions[MAILBOX] = 0
    heard = [
        first,
        *before,
        *others,
        hi(10, True, kept_lobby=3, kept_porch=2),
        *while_away,
        *live,
        copy,
        *lost,
    ]
    heard.insert(heard.index(live[0]), entry(10, 10))
    history.followers = [Follower(ANN, [*heard, *behind], is_live=True)]
    history.memberships = [
        Membership(ANN, LOBBY, False, 0.1, 0.2),
        Membership(ANN, LOBBY, True, 0.3, 0.4),
    ]
    return history


def heard_of(history: History) -> list[Heard]:
    return history.followers[0].heard


def index_of(history: History, number: int) -> int:
    return next(
        n for n, heard in enumerate(heard_of(history)) if heard.id == at(number) and heard.log == LOBBY
    )


def misses_one(history: History) -> None:
    del heard_of(history)[index_of(history, 7)]


def misses_one_although_it_is_told_later(history: History) -> None:
    losses = [heard for heard in heard_of(history) if heard.what == "lost"]
    for lost in losses:
        heard_of(history).remove(lost)
        heard_of(history).append(replace(lost, at_s=21.0))


def misses_the_end(history: History) -> None:
    heard_of(history).pop()


def misses_a_copy_of_both_rooms(history: History) -> None:
    heard_of(history)[:] = [heard for heard in heard_of(history) if heard.text != text(12)]


def gets_one_twice(history: History) -> None:
    position = index_of(history, 7)
    heard_of(history).insert(position, heard_of(history)[position])


def gets_them_backwards(history: History) -> None:
    position = index_of(history, 7)
    here = heard_of(history)
    here[position], here[position + 1] = here[position + 1], here[position]


def replays_part_of_what_was_lost(history: History) -> None:
    position = index_of(history, 19)
    heard_of(history).insert(position, entry(17, 18.6))


def gets_both_copies(history: History) -> None:
    heard_of(history).insert(index_of(history, 3), Heard(2.5, "entry", PORCH, at(2) + 1, text(2)))


def gets_what_excludes_it(history: History) -> None:
    heard_of(history).insert(index_of(history, 5), entry(4, 10))


def resumes_well_with_a_loss(history: History) -> None:
    next(heard for heard in heard_of(history) if heard.lost).resumed = True


def resumes_badly_without_a_loss(history: History) -> None:
    next(heard for heard in heard_of(history) if heard.resumed).resumed = False


def resumes_without_an_outcome(history: History) -> None:
    next(heard for heard in heard_of(history) if heard.resumed).resumed = None


def loses_a_log_without_a_cause(history: History) -> None:
    heard_of(history).append(Heard(21, "lost", EVERYBODY, at(21), "unknown"))
    history.faults[0].began_s = history.faults[0].ended_s = -10


def loses_a_log_twice_by_one_flush(history: History) -> None:
    heard_of(history).append(Heard(30, "lost", LOBBY, at(29), "unknown"))


def is_in_a_revoked_room_again(history: History) -> None:
    history.memberships.append(Membership(ANN, PORCH, False, 13, 13.1))


def stores_one_twice(history: History) -> None:
    history.stored.append(Stored(text(20), {LOBBY: at(20.5)}))


def stores_an_unknown_one_twice(history: History) -> None:
    for number in (20.1, 20.2):
        heard_of(history).append(Heard(21, "entry", LOBBY, at(number), UNKNOWN))


def uses_an_id_twice(history: History) -> None:
    history.stored.append(Stored(UNKNOWN, {LOBBY: at(7)}))


SPOILED: list[tuple[Callable[[History], None], str]] = [
    (misses_one, "contiguous"),
    (misses_a_copy_of_both_rooms, "contiguous"),
    (misses_one_although_it_is_told_later, "contiguous"),
    (misses_the_end, "caught up"),
    (gets_one_twice, "ordered"),
    (gets_them_backwards, "ordered"),
    (replays_part_of_what_was_lost, "nothing before the top"),
    (gets_both_copies, "one copy"),
    (gets_what_excludes_it, "exclusions"),
    (resumes_well_with_a_loss, "outcome"),
    (resumes_badly_without_a_loss, "outcome"),
    (resumes_without_an_outcome, "outcome"),
    (loses_a_log_without_a_cause, "loss has a cause"),
    (loses_a_log_twice_by_one_flush, "loss has a cause"),
    (is_in_a_revoked_room_again, "revoked"),
    (stores_one_twice, "appended once"),
    (stores_an_unknown_one_twice, "appended once"),
    (uses_an_id_twice, "one message an id"),
]


def broken(history: History) -> set[str]:
    return {name for name, check in CHECKS.items() if list(check(history))}


@pytest.mark.parametrize(("spoil", "promise"), SPOILED)
def test_a_broken_promise_is_named(spoil: Callable[[History], None], promise: str) -> None:
    history = sound()
    spoil(history)
    assert promise in broken(history)


def test_a_sound_history_breaks_none() -> None:
    assert broken(sound()) == set()


def test_every_check_has_a_history_that_it_finds() -> None:
    assert {promise for _, promise in SPOILED} == set(CHECKS)


def test_a_history_of_logs_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    sound().save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == sound()


def test_message_that_was_repeated_after_redis_lost_its_content_may_come_twice() -> None:
    """The sender did not know whether it was stored before the flush, and its key was gone."""
    history = sound()
    heard_of(history).insert(index_of(history, 20), Heard(19.5, "entry", LOBBY, at(19.5), text(15)))
    assert broken(history) == set()
    history.faults[0].began_s = history.faults[0].ended_s = -10
    assert {"one copy", "appended once"} <= broken(history)


def test_one_place_may_not_come_twice_although_redis_lost_its_content() -> None:
    history = sound()
    heard_of(history).insert(index_of(history, 15) + 1, entry(15, 15.5))
    assert {"one copy", "ordered"} <= broken(history)


@pytest.mark.parametrize("bounds", [Bounds(5, 60), Bounds(100, 5)])
def test_a_log_that_exceeds_its_bounds_may_lose_continuity(bounds: Bounds) -> None:
    history = sound()
    history.bounds[LOBBY] = bounds
    heard_of(history)[:] = [heard for heard in heard_of(history) if heard.id not in map(at, range(5, 11))]
    heard_of(history).insert(index_of(history, 11), Heard(10, "lost", LOBBY, at(10), "trimmed"))
    next(heard for heard in heard_of(history) if heard.resumed).resumed = False
    next(heard for heard in heard_of(history) if heard.resumed is False).lost = 1
    assert broken(history) == set()


def test_an_entry_that_reached_no_follower_may_be_lost_by_a_stale_restart() -> None:
    history = sound()
    misses_one(history)
    assert broken(history) == {"contiguous"}
    history.faults.append(Fault("restart stale", "redis", 6.5, 7.5))
    assert broken(history) == set()


def test_a_follower_that_is_away_at_the_end_need_not_have_caught_up() -> None:
    history = sound()
    misses_the_end(history)
    history.followers[0].is_live = False
    assert broken(history) == set()


def test_without_a_cursor_a_client_begins_anew() -> None:
    history = sound()
    heard_of(history)[index_of(history, 5) - 1 : index_of(history, 10) + 1] = [
        hi(10.5, None, kept_lobby=10, kept_porch=10)
    ]
    assert broken(history) == set()


def test_a_client_that_left_a_room_need_not_have_what_came_before_it_was_back() -> None:
    history = sound()
    out, back = Heard(5.5, "out", LOBBY), Heard(9.5, "in", LOBBY, positions={LOBBY: at(9)})
    heard_of(history)[index_of(history, 5) - 1 : index_of(history, 10)] = [out, back]
    assert broken(history) == set()


@pytest.mark.parametrize(("top_s", "promises"), [(3.5, set[str]()), (9.5, {"loss has a cause"})])
def test_a_trimmed_log_had_a_message_that_nobody_knows(top_s: float, promises: set[str]) -> None:
    """The sender of the newest message was killed, and the message has expired."""
    history = sound()
    history.bounds[LOBBY] = Bounds(100, 6)
    history.stored = [stored for stored in history.stored if stored.text not in map(text, range(4, 11))]
    follower = history.followers[0]
    gone = set(map(text, range(4, 11)))
    follower.heard = [heard for heard in follower.heard if heard.text not in gone]
    follower.heard.insert(index_of(history, 11), Heard(10, "lost", LOBBY, at(top_s), "trimmed"))
    assert broken(history) == promises


def test_message_of_a_mailbox_that_its_replica_could_not_receive_is_lost_with_redis() -> None:
    history = sound()
    for each in heard_of(history)[1:]:
        if each.what == "hi":
            each.positions[MAILBOX] = at(5)
    assert broken(history) == set()
    history.stored.append(Stored(message("box", ANN, "n1", 77), {MAILBOX: at(22)}))
    assert broken(history) == {"caught up"}
    history.faults.append(Fault("restart empty", "redis", 24.0, 24.5))
    assert broken(history) == {"caught up"}
    history.faults.append(Fault("cut", "n1", 21.5, 22.5))
    assert broken(history) == set()


def test_message_of_a_room_that_no_replica_received_is_lost_with_redis() -> None:
    history = sound()
    history.stored.append(Stored(message("kept", LOBBY, "n1", 77), {LOBBY: at(22)}))
    assert broken(history) == {"caught up"}
    history.unheard = [[LOBBY, at(22)]]
    assert broken(history) == {"caught up"}
    history.faults.append(Fault("restart empty", "redis", 24.0, 24.5))
    assert broken(history) == set()
    history.unheard = []
    assert broken(history) == {"caught up"}
