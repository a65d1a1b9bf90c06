"""The machine, event by event: what a client must survive, and the times of its attempts."""

import json
from typing import Any

import pytest

from fastapi_websocket_stabilizer_client import (
    ClosedError,
    IncompatibleServerError,
    InterruptedRequestError,
    LimitError,
    Lost,
    Message,
    NotConnectedError,
    ReplacedError,
    RequestFailedError,
    RequestTimeoutError,
    Status,
    UnauthorizedError,
)
from fastapi_websocket_stabilizer_client import actions as do
from fastapi_websocket_stabilizer_client.calls import MAX_OPEN, MAX_WAITING
from fastapi_websocket_stabilizer_client.machine import Machine
from fastapi_websocket_stabilizer_client.options import Options

V1 = "stabilizer.v1"


class Driver:
    """A machine with a clock, the actions of its last event, and short names for what happens to it."""

    def __init__(self, chance: float = 0.5, **options: Any) -> None:
        self.machine = Machine(lambda: chance, Options(**options))
        self.now_s = 0.0
        self.actions: list[do.Action] = []
        self.run(self.machine.start)

    def run(self, event: Any, *arguments: Any) -> "Driver":
        self.actions = event(*arguments, self.now_s)
        return self

    def wait(self, seconds: float) -> "Driver":
        """Let time pass, and let the timer run."""
        self.now_s += seconds
        return self.run(self.machine.timer)

    def open(self, generation: int = 1) -> "Driver":
        return self.run(self.machine.opened, generation, V1)

    def frame(self, *frames: Any, generation: int = 1) -> "Driver":
        """Pass frames to the machine, and keep the actions of all."""
        actions: list[do.Action] = []
        for frame in frames:
            text = frame if isinstance(frame, str | bytes) else json.dumps(frame)
            self.run(self.machine.frame, generation, text)
            actions += self.actions
        self.actions = actions
        return self

    def hi(self, generation: int = 1, *, live: bool = True, **hi: Any) -> "Driver":
        fields = {
            "v": 1,
            "id": "ann",
            "sid": f"s{generation}",
            "t": 1,
            "ping": 25,
            "pong": False,
            "at": {"a": 0},
        }
        return self.frame({"hi": fields | hi}, *([{"live": 0}] if live else []), generation=generation)

    def live(self, generation: int = 1, **hi: Any) -> "Driver":
        """Bring an attempt that was dialed to its end."""
        return self.open(generation).hi(generation, **hi)

    def close(self, code: int, reason: str = "", generation: int = 1) -> "Driver":
        return self.run(self.machine.closed, generation, code, reason)

    def of(self, kind: type) -> list[Any]:
        return [action for action in self.actions if isinstance(action, kind)]

    @property
    def sent(self) -> list[Any]:
        return [json.loads(action.frame) for action in self.of(do.Send)]

    @property
    def events(self) -> list[Message | Lost]:
        return [action.event for action in self.of(do.Deliver)]

    @property
    def dialed(self) -> list[int]:
        return [action.generation for action in self.of(do.Dial)]

    @property
    def retry_in_s(self) -> float | None:
        change: float | None = self.of(do.StatusChanged)[-1].change.retry_in_s
        return change

    @property
    def cursor(self) -> Any:
        return json.loads(self.machine.cursor or "null")

    @property
    def status(self) -> str:
        return str(self.machine.status)


# Attempts.


def test_first_connection_offers_no_cursor_and_the_next_one_does() -> None:
    driver = Driver()
    assert driver.of(do.Dial) == [do.Dial(1, (V1,))]
    driver.live(at={"a": 5}, all=6, box=7).close(1006).wait(1)
    (dial,) = driver.of(do.Dial)
    assert len(dial.items) == 2
    assert driver.cursor == {"s": "s1", "t": 1, "at": {"a": 5}, "all": 6, "box": 7}


def test_cursor_is_sent_later_after_an_attempt_that_failed_before_hi() -> None:
    driver = Driver().live().close(1006).wait(1).close(1006, generation=2).wait(1)
    assert driver.of(do.Dial) == [do.Dial(3, (V1, f"{V1}.resume.later"))]
    driver.open(3)
    assert driver.sent == [{"resume": driver.cursor}]
    driver.hi(3, re=True).close(1006, generation=3).wait(1)
    assert f"{V1}.resume.later" not in driver.of(do.Dial)[0].items


def test_delays_grow_with_failures_and_not_above_twenty_seconds() -> None:
    driver, delays = Driver(chance=0.999), []
    for generation in range(1, 9):
        driver.close(1006, generation=generation)
        delays.append(driver.retry_in_s)
        driver.wait(delays[-1] or 0)
    assert delays == pytest.approx([0.5, 1, 2, 4, 8, 16, 20, 20], rel=0.01)


def test_drop_of_a_connection_that_was_live_is_no_failure() -> None:
    driver = Driver().close(1006).wait(1).live(2)
    driver.now_s += 5
    assert driver.close(1006, generation=2).retry_in_s == 0.5
    assert driver.wait(0.5).live(3).close(1006, generation=3).retry_in_s == 0.25
    assert driver.wait(0.25).live(4).close(1006, generation=4).retry_in_s == 0.5


def test_hint_replaces_the_delay_and_is_no_failure() -> None:
    driver = Driver().close(1013, '{"reconnect_in_ms":7000}')
    assert driver.retry_in_s == 7
    assert driver.wait(7).close(1006, generation=2).retry_in_s == 0.25


def test_attempt_without_hi_ends_after_ten_seconds() -> None:
    driver = Driver().open()
    assert driver.machine.timer_at == 10
    assert driver.wait(10).of(do.Abandon) == [do.Abandon(1)]
    assert driver.status == "waiting"
    assert "hi did not come" in driver.of(do.StatusChanged)[0].change.cause


@pytest.mark.parametrize("frame", [[1, "a", "x"], {}, "{", b"\x02" + bytes(10)])
def test_first_frame_is_hi_or_the_socket_is_abandoned(frame: Any) -> None:
    driver = Driver().open().frame(frame)
    assert (driver.of(do.Abandon), driver.status) == ([do.Abandon(1)], "waiting")


def test_socket_that_opens_after_its_attempt_has_ended_is_abandoned() -> None:
    assert Driver().wait(10).open().actions == [do.Abandon(1)]


@pytest.mark.parametrize("selected", [None, "graphql-ws"])
def test_other_subprotocol_ends_the_client(selected: str | None) -> None:
    driver = Driver()
    driver.run(driver.machine.opened, 1, selected)
    assert isinstance(driver.machine.error, IncompatibleServerError)
    assert driver.status == "closed"


def test_credentials_are_got_for_each_attempt_and_have_a_deadline() -> None:
    driver = Driver(has_auth=True, can_renew=True)
    assert driver.of(do.Authorize) == [do.Authorize(1)]
    assert driver.wait(10).status == "waiting"
    driver.wait(1).run(driver.machine.authorized, 1, "late")
    assert driver.actions == []
    driver.run(driver.machine.authorized, 2, "t")
    assert driver.of(do.Dial) == [do.Dial(2, (V1, f"{V1}.auth.dA"))]
    assert driver.run(driver.machine.unauthorized, 2, "no network").status == "waiting"


def test_refused_credentials_are_renewed_once() -> None:
    driver = Driver(has_auth=True, can_renew=True)
    driver.run(driver.machine.authorized, 1, "t").close(4401)
    assert driver.status == "waiting"
    driver.wait(1).run(driver.machine.authorized, 2, "t").close(4401, generation=2)
    assert isinstance(driver.machine.error, UnauthorizedError)


def test_token_that_makes_the_header_too_long_ends_the_client() -> None:
    driver = Driver(has_auth=True)
    driver.run(driver.machine.authorized, 1, "x" * 4000)
    assert "send it in another way" in str(driver.machine.error)


FINAL_CODES = [
    (4503, ClosedError), (1009, ClosedError), (4500, ReplacedError), (4401, UnauthorizedError),
]  # fmt: skip


@pytest.mark.parametrize(("code", "error"), FINAL_CODES)
def test_final_code_ends_the_client_and_its_calls(code: int, error: type[ClosedError]) -> None:
    driver = Driver().live()
    driver.run(driver.machine.confirm, "key", "x", 30.0).close(code, "why")
    assert driver.of(do.StatusChanged)[-1].change.error is driver.machine.error
    assert [action.key for action in driver.of(do.Settle)] == ["key"]
    for found in (driver.machine.error, *(action.error for action in driver.of(do.Settle))):
        assert (type(found), found and (found.code, found.reason)) == (error, (code, "why"))


@pytest.mark.parametrize(("code", "error"), FINAL_CODES)
@pytest.mark.parametrize("call", ["send", "confirm", "request", "join", "leave"])
def test_call_after_the_end_raises_why_the_client_has_ended(
    call: str, code: int, error: type[ClosedError]
) -> None:
    driver = Driver().live().close(code, "why")
    arguments = {"send": ("x",), "confirm": ("key", "x", 9.0), "request": ("key", "x", None, 9.0)}
    with pytest.raises(ClosedError, match=r"the client has ended: .*why") as raised:
        driver.run(getattr(driver.machine, call), *arguments.get(call, ("key", "a", 9.0)))
    assert (raised.type, raised.value.code, raised.value.reason) == (error, code, "why")


def test_call_after_the_application_has_closed_has_no_code() -> None:
    driver = Driver().live()
    driver.run(driver.machine.close)
    with pytest.raises(ClosedError, match="closed by the application") as raised:
        driver.run(driver.machine.send, "x")
    assert (raised.type, raised.value.code, raised.value.reason) == (ClosedError, None, "")


def test_final_code_of_an_attempt_has_its_reason() -> None:
    driver = Driver().close(4503, "why")
    assert driver.machine.error is not None
    assert (driver.machine.error.code, driver.machine.error.reason) == (4503, "why")


def test_change_of_the_state_has_the_close_code() -> None:
    driver, codes = Driver(), []
    for _ in range(2):
        driver.close(1012, generation=driver.dialed[-1])
        codes.append(driver.of(do.StatusChanged)[-1].change.close_code)
        driver.wait(30)
    driver.live(3)
    codes += [each.change.close_code for each in driver.of(do.StatusChanged)]
    driver.run(driver.machine.offline)
    codes += [each.change.close_code for each in driver.of(do.StatusChanged)]
    assert codes == [1012, 1012, None, None, None]


# Positions and losses.


def test_position_moves_with_each_frame_before_the_handler() -> None:
    driver = Driver().live(all=0, box=0).frame([5, "a", "x"], [6, 0, "y"], [7, 1, "z"])
    assert driver.cursor == {"s": "s1", "t": 1, "at": {"a": 5}, "all": 7, "box": 6}
    driver.frame(
        {"at": {"a": 9}, "all": 10},
        {"t": 11},
        {"in": "b", "at": 3},
        {"in": "c", "at": None},
        [0, "a", "volatile"],
    )
    assert driver.cursor == {"s": "s1", "t": 11, "at": {"a": 9, "b": 3}, "all": 10, "box": 6}
    driver.frame({"lost": [["a", 2, "hole"], ["nobody listens", 3, "new"]]}, {"out": "b"})
    assert driver.cursor["at"] == {"a": 2, "nobody listens": 3}
    assert driver.events == [Lost("a", 2, "hole"), Lost("nobody listens", 3, "new")]


def test_message_to_several_rooms_is_given_once_across_connections() -> None:
    driver = Driver().live().frame([5, "a", "x", "k1"], [6, "b", "x", "k1"])
    assert driver.events == [Message("a", 5, "x")]
    driver.close(1006).wait(1).live(2, re=True).frame([7, "c", "x", "k1"], [0, "d", "y", "k2"], generation=2)
    assert driver.events == [Message("d", 0, "y")]
    assert driver.cursor["at"] == {"a": 0, "b": 6, "c": 7}


def test_keys_are_remembered_for_the_last_256_messages() -> None:
    driver = Driver().live().frame(*([number, "a", "x", f"k{number}"] for number in range(1, 258)))
    assert driver.frame([300, "b", "x", "k2"]).events == []
    assert driver.frame([301, "b", "x", "k1"]).events == [Message("b", 301, "x")]


def test_hi_replaces_positions_and_keeps_those_of_other_rooms() -> None:
    driver = Driver().live(at={"a": 1, "b": 2, "c": 3}, all=4, box=5).close(1006).wait(1)
    driver.live(2, re=False, at={"a": 9, "c": None}, lost=[["a", 9, "trimmed"]])
    assert driver.cursor == {"s": "s2", "t": 1, "at": {"a": 9, "b": 2}}
    assert driver.events == [Lost("a", 9, "trimmed")]


def test_cursor_that_was_lost_on_the_way_is_a_loss_of_each_log_that_jumps() -> None:
    driver = (
        Driver()
        .live(at={"a": 1, "b": 2}, all=4)
        .close(1006)
        .wait(1)
        .live(2, at={"a": 9, "b": 2, "c": 3}, all=5)
    )
    assert driver.events == [Lost("a", 9, "unknown"), Lost(1, 5, "unknown")]


def test_frame_that_is_no_json_costs_the_socket_and_no_message() -> None:
    driver = Driver().live().frame([5, "a", "x"], "[6,")
    assert driver.of(do.Abandon) == [do.Abandon(1)]
    assert driver.status == "waiting"
    assert driver.wait(1).of(do.Dial)[0].generation == 2
    assert driver.cursor["at"] == {"a": 5}


def test_frames_of_a_later_release_are_ignored() -> None:
    driver = Driver().live().frame({"weather": 1}, [0, 2, "x"], b"\xff\x00", {"constructor": 1})
    assert (driver.actions, driver.status) == ([], "live")


# States.


def test_resume_that_is_put_off_is_live_with_its_own_live() -> None:
    driver = Driver().live().close(1006).wait(1).open(2).hi(2, re="later")
    assert driver.status == "catching-up"
    driver.frame({"lost": [["a", 9, "trimmed"]]}, {"re": False}, [10, "a", "x"], generation=2)
    assert driver.status == "catching-up"
    assert driver.frame({"live": 1}, generation=2).status == "live"
    assert driver.cursor["at"] == {"a": 10}


def test_offline_closes_the_socket_and_online_dials_once() -> None:
    driver = Driver().live()
    assert driver.run(driver.machine.offline).of(do.Close) == [do.Close(1)]
    assert driver.status == "offline"
    assert driver.run(driver.machine.offline).actions == []
    assert driver.wait(100).actions == []
    assert driver.run(driver.machine.online).dialed == [2]
    assert driver.run(driver.machine.online).actions == []


def test_online_replaces_a_dial_that_is_under_way() -> None:
    driver = Driver()
    driver.run(driver.machine.online)
    assert (driver.of(do.Abandon), driver.dialed) == ([do.Abandon(1)], [2])


def test_online_checks_a_connection_that_may_be_broken() -> None:
    driver = Driver().live()
    driver.now_s += 36
    assert driver.run(driver.machine.online).sent == [{"ping": 1}]


def test_application_closes_and_starts_again_with_the_cursor() -> None:
    driver = Driver().live().frame([5, "a", "x"])
    assert driver.run(driver.machine.close).of(do.Close) == [do.Close(1)]
    assert (driver.status, driver.machine.error) == ("closed", None)
    assert driver.run(driver.machine.close).actions == []
    driver.frame([6, "a", "late"]).close(1006)
    assert driver.events == []
    driver.run(driver.machine.start)
    assert driver.dialed == [2]
    assert driver.run(driver.machine.start).actions == []


def test_reconnect_drops_the_connection_and_dials_at_once() -> None:
    driver = Driver().live()
    driver.run(driver.machine.reconnect)
    assert (driver.of(do.Close), driver.dialed) == ([do.Close(1)], [2])
    assert driver.live(2, re=True).status == "live"


def test_reconnect_begins_a_client_that_was_not_started() -> None:
    machine = Machine(lambda: 0.5)
    assert machine.status is Status.IDLE
    assert machine.offline(0.0) == []
    assert [type(action) for action in machine.reconnect(0.0)] == [do.Dial, do.StatusChanged]


# Liveness.


def test_silent_server_is_asked_and_then_abandoned() -> None:
    driver = Driver().live()
    assert driver.wait(34).actions == []
    assert driver.wait(1).sent == [{"ping": 1}]
    assert driver.wait(4).actions == []
    driver.wait(1)
    assert (driver.of(do.Abandon), driver.status) == ([do.Abandon(1)], "waiting")


@pytest.mark.parametrize("frame", [{}, {"unknown": 1}, b"\xff"])
def test_any_frame_is_a_sign_of_life(frame: Any) -> None:
    driver = Driver().live().wait(35).frame(frame)
    assert driver.wait(34).actions == []


def test_system_that_slept_gives_the_server_two_seconds() -> None:
    driver = Driver().live().wait(1000)
    assert driver.sent == [{"ping": 1}]
    assert driver.wait(2).of(do.Abandon) == [do.Abandon(1)]
    driver = Driver().live()
    driver.now_s += 36
    assert driver.run(driver.machine.wake).sent == [{"ping": 1}]


def test_call_notices_a_silent_server() -> None:
    driver = Driver().live()
    driver.now_s += 36
    assert driver.run(driver.machine.send, "x").sent == [{"ping": 1}, {"m": "x"}]


def test_silence_of_an_application_that_reads_nothing_is_not_the_servers() -> None:
    driver = Driver().live().wait(35)
    assert driver.run(driver.machine.stalled).wait(6).actions == []


def test_ping_of_the_server_is_answered_and_a_sign_of_life_is_not() -> None:
    assert Driver().live().frame({"ping": 1}, {}).sent == [{}]


# Drain.


def drained() -> Driver:
    """Return a client whose next socket is open beside the old one."""
    return Driver().live().frame({"go": {"in": 800}}).open(2)


def test_frames_of_the_old_socket_are_held_until_hi() -> None:
    driver = drained().frame(
        [5, "a", "x"], {"t": 7}, {"in": "b", "at": 1}, {"at": {"a": 6}}, {"lost": [["a", 7, "hole"]]}
    )
    assert (driver.events, driver.cursor["at"], driver.status) == ([], {"a": 0}, "live")
    driver.hi(2, live=False, re=True)
    assert (driver.events, driver.of(do.Close), driver.cursor["at"]) == ([], [do.Close(1)], {"a": 0})
    driver.frame([5, "a", "x"], generation=2)
    assert driver.events == [Message("a", 5, "x")]


def test_failed_attempt_gives_the_held_frames_and_is_repeated() -> None:
    driver = drained().frame([5, "a", "x"], {"out": "a"}).close(1006, generation=2)
    assert driver.events == [Message("a", 5, "x")]
    assert (driver.cursor["at"], driver.status) == ({}, "live")
    assert driver.wait(0.5).dialed == [3]
    assert driver.machine.timer_at == 10.5


def test_too_many_held_frames_end_the_attempt() -> None:
    driver = Driver(max_held=2).live().frame({"go": {"in": 800}}).open(2)
    assert driver.frame([1, "a", 1], [2, "a", 2]).events == []
    driver.frame([3, "a", 3])
    assert (len(driver.events), driver.of(do.Abandon)) == (3, [do.Abandon(2)])


def test_calls_go_on_at_the_old_socket_until_hi() -> None:
    driver = drained()
    driver.run(driver.machine.request, "key", "rename", None, 10.0)
    assert driver.of(do.Send)[0].generation == 1
    driver.frame({"a": 1, "d": 2})
    assert driver.of(do.Settle) == [do.Settle("key", 2)]
    driver.run(driver.machine.request, "other", "rename", None, 10.0)
    (settled,) = driver.hi(2, re=True).of(do.Settle)
    assert isinstance(settled.error, InterruptedRequestError)


def test_second_go_opens_no_third_socket() -> None:
    assert drained().frame({"go": {"in": 800}}).dialed == []


def test_old_socket_that_ends_first_leaves_the_attempt_alone() -> None:
    driver = drained().frame([5, "a", "x"]).close(1012)
    assert (driver.status, driver.events, driver.dialed) == ("connecting", [], [])
    assert driver.hi(2, re=True).status == "live"


def test_replacement_by_the_own_next_session_is_ignored_even_before_hi() -> None:
    driver = drained().close(4500, '{"by":"s2"}')
    assert driver.status == "connecting"
    assert driver.hi(2, re=True).status == "live"


def test_replacement_by_another_client_ends_the_client_when_hi_shows_it() -> None:
    driver = drained().close(4500, '{"by":"s9"}').hi(2, re=True)
    error = driver.machine.error
    assert isinstance(error, ReplacedError)
    assert (error.code, error.reason) == (4500, '{"by":"s9"}')
    assert driver.of(do.Close) == [do.Close(2)]


def test_replacement_by_an_attempt_that_has_failed_is_no_end() -> None:
    driver = drained().close(1006, generation=2).close(4500, '{"by":"s2"}')
    assert driver.status == "waiting"
    driver = drained().close(4500, '{"by":"s2"}').close(1006, generation=2)
    assert driver.status == "waiting"


# Calls.


def test_each_request_has_one_outcome() -> None:
    driver = Driver().live()
    driver.run(driver.machine.request, "value", "m", None, 10.0)
    driver.run(driver.machine.request, "error", "m", None, 10.0)
    driver.run(driver.machine.request, "timeout", "m", None, 5.0)
    driver.run(driver.machine.request, "cancelled", "m", None, 10.0)
    driver.frame(
        {"a": 1, "d": 1}, {"a": 1, "d": 2}, {"a": 99, "d": 1}, {"a": 2, "x": {"code": "c", "message": "m"}}
    )
    assert [(action.key, action.value, type(action.error)) for action in driver.of(do.Settle)] == [
        ("value", 1, type(None)), ("error", None, RequestFailedError),
    ]  # fmt: skip
    driver.run(driver.machine.cancel, "cancelled")
    assert (driver.sent, driver.of(do.Settle)) == ([{"c": 4}], [])
    driver.wait(5)
    assert driver.sent == [{"c": 3}]
    assert [(action.key, type(action.error)) for action in driver.of(do.Settle)] == [
        ("timeout", RequestTimeoutError)
    ]
    assert driver.frame({"a": 3, "d": 1}, {"a": 4, "d": 1}).actions == []


def test_request_waits_for_a_connection_and_is_not_repeated() -> None:
    driver = Driver()
    driver.run(driver.machine.request, "key", "m", 1, 60.0)
    assert driver.live().sent == [{"q": 1, "m": "m", "d": 1}]
    (settled,) = driver.close(1006).of(do.Settle)
    assert isinstance(settled.error, InterruptedRequestError)
    assert driver.wait(1).live(2).sent == []


def test_more_than_64_requests_wait_for_answers_to_others() -> None:
    driver = Driver().live()
    for number in range(MAX_OPEN + 1):
        driver.run(driver.machine.request, number, "m", None, 10.0)
    assert driver.sent == []
    assert [frame["q"] for frame in driver.frame({"a": 1, "d": 0}).sent] == [MAX_OPEN + 1]


def test_too_many_requests_are_refused() -> None:
    driver = Driver()
    for number in range(MAX_WAITING):
        driver.run(driver.machine.request, number, "m", None, 10.0)
    with pytest.raises(LimitError, match="1024 requests wait"):
        driver.run(driver.machine.request, "one more", "m", None, 10.0)


def test_joins_are_repeated_and_rooms_of_the_application_joined_again() -> None:
    driver = Driver().live()
    driver.run(driver.machine.join, "key", "b", 60.0).close(1006)
    assert driver.of(do.Settle) == []
    assert driver.wait(1).live(2, re=True).sent == [{"join": "b", "q": 2}]
    driver.frame({"in": "b", "at": 4}, {"a": 2, "d": None}, generation=2)
    assert driver.of(do.Settle) == [do.Settle("key")]
    assert driver.machine.rooms == {"a", "b"}
    assert driver.close(1006, generation=2).wait(1).live(3, re=True).sent == [{"join": "b", "q": 3}]
    driver.frame({"a": 3, "x": {"code": "forbidden", "message": "no"}}, generation=3)
    (changed,) = driver.of(do.RoomChanged)
    assert (changed.room, changed.is_member, changed.error.code) == ("b", False, "forbidden")
    assert driver.close(1006, generation=3).wait(2).live(4, re=True).sent == []


def test_room_that_was_left_is_not_joined_again() -> None:
    driver = Driver().live()
    driver.run(driver.machine.join, "join", "b", 60.0).frame({"in": "b", "at": 4}, {"a": 1, "d": None})
    driver.run(driver.machine.leave, "leave", "b", 60.0).frame({"out": "b"}, {"a": 2, "d": None})
    assert driver.of(do.RoomChanged) == [do.RoomChanged("b", is_member=False)]
    assert driver.close(1006).wait(1).live(2, re=True).sent == []


def test_leave_that_was_carried_out_is_done_although_its_answer_was_lost() -> None:
    missing = {"code": "not_found", "message": "the connection is not in this room"}
    driver = Driver().live()
    driver.run(driver.machine.leave, "lost", "a", 60.0).close(1006)
    assert driver.wait(1).live(2, re=True).sent == [{"leave": "a", "q": 2}]
    assert driver.frame({"a": 2, "x": missing}, generation=2).of(do.Settle) == [do.Settle("lost")]
    driver.run(driver.machine.leave, "first", "a", 60.0).frame({"a": 3, "x": missing}, generation=2)
    (settled,) = driver.of(do.Settle)
    assert isinstance(settled.error, RequestFailedError)


def test_credentials_are_renewed_before_they_expire() -> None:
    driver = Driver(has_auth=True, can_renew=True)
    driver.run(driver.machine.authorized, 1, "t").live(exp=10).wait(8)
    assert driver.of(do.Authorize) == [do.Authorize(1, is_renewal=True)]
    assert driver.run(driver.machine.renew, 1, "t2").sent == [{"auth": "t2", "q": 1}]
    driver.frame({"a": 1, "d": {"exp": 20}})
    assert driver.wait(15).of(do.Authorize) == []
    assert driver.wait(1).of(do.Authorize) == [do.Authorize(1, is_renewal=True)]
    assert driver.close(1006).run(driver.machine.renew, 1, "t3").actions == []


def test_credentials_that_could_not_be_had_or_were_refused_are_asked_for_again() -> None:
    driver = Driver(has_auth=True, can_renew=True)
    driver.run(driver.machine.authorized, 1, "t").live(exp=10).wait(8)
    assert driver.of(do.Authorize) == [do.Authorize(1, is_renewal=True)]
    assert driver.wait(9).of(do.Authorize) == []  # auth has raised
    assert driver.wait(1).of(do.Authorize) == [do.Authorize(1, is_renewal=True)]
    driver.run(driver.machine.renew, 1, "t2").frame({"a": 1, "x": {"code": "forbidden", "message": "no"}})
    assert driver.wait(10).of(do.Authorize) == [do.Authorize(1, is_renewal=True)]
    driver.run(driver.machine.renew, 1, "t3").frame({"a": 2, "d": {}})  # they do not expire
    assert driver.wait(20).of(do.Authorize) == []


# Confirmed messages.


def test_messages_are_sent_again_with_their_numbers_if_the_session_goes_on() -> None:
    driver = Driver().live()
    for number in (1, 2, 3):
        driver.run(driver.machine.confirm, number, f"m{number}", 60.0)
    assert driver.frame({"n": 1}).of(do.Settle) == [do.Settle(1)]
    driver.close(1006).wait(1).live(2, re=True, n=2)
    assert driver.of(do.Settle) == [do.Settle(2)]
    assert driver.sent == [{"m": "m3", "n": 3}]
    driver.run(driver.machine.confirm, 4, "m4", 60.0)
    assert driver.sent == [{"m": "m4", "n": 4}]


def test_messages_are_numbered_anew_in_a_new_session() -> None:
    driver = Driver().live()
    for number in (1, 2):
        driver.run(driver.machine.confirm, number, f"m{number}", 60.0)
    driver.frame({"n": 1}).close(1006).wait(1).live(2, re=True)
    assert driver.sent == [{"m": "m2", "n": 1}]
    failed = driver.frame({"n": 1, "x": {"code": "invalid", "message": "no"}}, generation=2).of(do.Settle)
    assert [(action.key, action.error.code) for action in failed] == [(2, "invalid")]


def test_message_that_nothing_waits_for_keeps_its_number() -> None:
    driver = Driver().live()
    driver.run(driver.machine.confirm, "first", "m1", 5.0)
    driver.run(driver.machine.confirm, "second", "m2", 60.0).wait(5)
    assert [type(action.error) for action in driver.of(do.Settle)] == [RequestTimeoutError]
    driver.close(1006).wait(1).live(2, re=True, n=0)
    assert driver.sent == [{"m": "m1", "n": 1}, {"m": "m2", "n": 2}]
    assert driver.frame({"n": 2}, generation=2).of(do.Settle) == [do.Settle("second")]


def test_message_that_was_never_sent_is_dropped_with_its_caller() -> None:
    driver = Driver()
    driver.run(driver.machine.confirm, "key", "x", 5.0)
    driver.run(driver.machine.cancel, "key")
    assert driver.live().sent == []


def test_unconfirmed_messages_have_bounds() -> None:
    driver = Driver(max_unconfirmed=2, max_unconfirmed_bytes=10)
    driver.run(driver.machine.confirm, 1, "12345", 5.0)
    with pytest.raises(LimitError, match="1 messages with 7 bytes are unconfirmed"):
        driver.run(driver.machine.confirm, 2, "12345", 5.0)
    driver.run(driver.machine.confirm, 2, "1", 5.0)
    with pytest.raises(LimitError, match="max_unconfirmed=2"):
        driver.run(driver.machine.confirm, 3, b"", 5.0)


def test_message_without_confirmation_needs_a_connection() -> None:
    driver = Driver()
    with pytest.raises(NotConnectedError):
        driver.run(driver.machine.send, "x")


# Requests of the server.


def test_request_of_the_server_is_answered_once_and_on_its_connection() -> None:
    driver = (
        Driver()
        .live()
        .frame({"q": 1, "m": "ask", "d": 5}, {"q": 1, "m": "ask"}, {"q": 2, "m": "ask"}, {"c": 2}, {"c": 9})
    )
    assert [type(action) for action in driver.actions] == [do.Asked, do.Asked, do.Unasked]
    assert driver.run(driver.machine.answer, 1, 2, "late", None).sent == []
    assert driver.run(driver.machine.answer, 1, 1, "yes", None).sent == [{"a": 1, "d": "yes"}]
    assert driver.run(driver.machine.answer, 1, 1, "again", None).sent == []
    driver.frame({"q": 3, "m": "ask"})
    assert driver.close(1006).of(do.Unasked) == [do.Unasked(1, 3)]
    driver.wait(1).live(2, re=True)
    assert driver.run(driver.machine.answer, 1, 3, "late", None).sent == []


def test_more_than_64_requests_of_the_server_are_refused() -> None:
    driver = Driver().live().frame(*({"q": number, "m": "ask"} for number in range(MAX_OPEN + 1)))
    assert [(frame["a"], frame["x"]["code"]) for frame in driver.sent] == [(MAX_OPEN, "limit")]


# Mailbox.


def test_mailbox_is_marked_at_most_once_a_second_or_after_64_messages() -> None:
    driver = Driver().live(box=0)
    assert driver.run(driver.machine.handled, 1).sent == [{"k": 1}]
    assert driver.run(driver.machine.handled, 2).sent == []
    assert driver.machine.timer_at == 1
    assert driver.wait(1).sent == [{"k": 2}]
    for number in range(3, 66):
        assert driver.run(driver.machine.handled, number).sent == []
    assert driver.run(driver.machine.handled, 66).sent == [{"k": 66}]
    driver.run(driver.machine.handled, 67)
    assert driver.run(driver.machine.close).sent == [{"k": 67}]


# Presence.


def test_presence_is_asked_again_after_a_gap_and_on_each_connection() -> None:
    driver = Driver().live()
    assert driver.run(driver.machine.watch, "a").sent == [{"p": "a", "v": 0}]
    assert driver.run(driver.machine.watch, "a").sent == []
    driver.frame({"p": "a", "v": 7, "=": [["ann", 1]], "more": 1}, {"p": "a", "v": 7, "=": [["bob", 2]]})
    assert driver.of(do.PresenceChanged) == [do.PresenceChanged("a", {"ann": 1, "bob": 2})]
    driver.frame({"p": "a", "v": 8, "+": [["ann", 3]], "-": ["ann", "bob"]})
    assert driver.of(do.PresenceChanged) == [do.PresenceChanged("a", {"ann": 3})]
    assert driver.frame({"p": "a", "v": 10, "+": [["eve", 1]]}).sent == [{"p": "a", "v": 8}]
    assert driver.frame({"p": "a", "v": 11, "+": [["eve", 1]]}).actions == []
    assert driver.close(1006).wait(1).live(2, re=True).sent == [{"p": "a", "v": 8}]


def test_presence_of_a_room_begins_when_it_is_joined_and_ends_when_it_is_left() -> None:
    driver = Driver().live()
    assert driver.run(driver.machine.watch, "b").sent == []
    assert driver.frame({"in": "b", "at": None}).sent == [{"p": "b", "v": 0}]
    driver.frame({"p": "b", "v": 1, "=": [["ann", 1]]}, {"p": "other", "v": 1, "=": []}, {"out": "b"})
    assert driver.of(do.PresenceChanged)[-1] == do.PresenceChanged("b", {})
    assert driver.run(driver.machine.unwatch, "b").sent == []


def test_pages_of_a_snapshot_are_taken_although_the_room_was_unwatched_between_them() -> None:
    driver = Driver().live()
    driver.run(driver.machine.watch, "a").frame({"p": "a", "v": 7, "=": [["ann", 1]], "more": 1})
    assert driver.run(driver.machine.unwatch, "a").sent == [{"p": "a", "v": None}]
    assert driver.run(driver.machine.watch, "a").sent == [{"p": "a", "v": 0}]
    driver.frame({"p": "a", "v": 7, "=": [["bob", 2]]})
    assert driver.of(do.PresenceChanged) == [do.PresenceChanged("a", {"ann": 1, "bob": 2})]
