"""A turn of the event loop is shared among the sockets that have more to parse than it allows."""

import asyncio
from dataclasses import dataclass, field

import pytest

from fastapi_websocket_stabilizer.uvicorn.intake import (
    FRAMES_PER_TURN,
    LEAST_PAUSE_S,
    PAUSE_PER_FRAME_S,
    Intake,
)
from tests.unit.fakes import Clock, turns


@dataclass
class Flood:
    """A socket with so many frames left, of which it parses a few at a time."""

    name: str
    intake: Intake
    log: list[str]
    left: int
    at_once: int = 8

    def parse_on(self) -> None:
        frames = min(self.left, self.at_once)
        self.left -= frames
        self.log.append(self.name)
        self.intake.spend(frames)
        if self.left:
            self.intake.wait(self)


@dataclass
class Turns:
    """Counts the turns of the running loop."""

    count: int = 0
    marks: dict[int, int] = field(default_factory=dict)

    async def watch(self, log: list[str]) -> None:
        while True:
            self.marks[self.count] = len(log)
            self.count += 1
            await asyncio.sleep(0)


async def test_one_turn_handles_a_bounded_number_of_frames_of_all_sockets_together() -> None:
    intake, log = Intake.of(asyncio.get_running_loop()), list[str]()
    watch = Turns()
    task = asyncio.create_task(watch.watch(log))
    floods = [Flood(name, intake, log, left=400) for name in "abcdefghijklmnopqrst"]
    for flood in floods:
        intake.wait(flood)
    await turns(400 * len(floods) // FRAMES_PER_TURN + 2)
    assert not any(flood.left for flood in floods)
    task.cancel()
    handled = [watch.marks[turn + 1] - watch.marks[turn] for turn in range(watch.count - 1)]
    assert max(handled) * 8 <= FRAMES_PER_TURN + 8
    assert sum(handled) * 8 <= 400 * len(floods)


async def test_sockets_continue_in_turn() -> None:
    intake, log = Intake.of(asyncio.get_running_loop()), list[str]()
    for name in "abc":
        intake.wait(Flood(name, intake, log, left=24))
    await turns()
    assert "".join(log) == "abcabcabc"


async def test_sockets_that_continue_give_way_once_to_what_arrived() -> None:
    intake, log = Intake.of(asyncio.get_running_loop()), list[str]()
    intake.wait(Flood("a", intake, log, left=400))
    handled = []
    for arrives in (False, True, True, True, False, False):
        if arrives:
            intake.arrive()
        before = len(log)
        await turns(1)
        handled.append(len(log) > before)
    assert handled == [True, False, True, False, True, True]
    assert not intake.has_room, "the socket waits"


async def test_arrival_that_holds_up_no_socket_does_not_end_the_turn() -> None:
    intake = Intake.of(asyncio.get_running_loop())
    intake.spend(FRAMES_PER_TURN)
    intake.arrive()
    await turns(2)
    assert intake.has_room


async def test_budget_is_whole_again_in_the_next_turn() -> None:
    intake = Intake.of(asyncio.get_running_loop())
    assert intake.has_room
    intake.spend(FRAMES_PER_TURN)
    assert not intake.has_room
    await turns(2)
    assert intake.has_room


async def test_socket_that_may_continue_does_not_overtake_one_that_waits() -> None:
    intake, log = Intake.of(asyncio.get_running_loop()), list[str]()
    intake.wait(Flood("a", intake, log, left=1))
    assert not intake.has_room
    await turns(3)
    assert (log, intake.has_room) == (["a"], True)


async def test_sockets_with_long_messages_continue_one_by_one_with_pauses_and_hold_no_other() -> None:
    clock = Clock()
    intake, log = Intake.of(asyncio.get_running_loop()), list[str]()
    frames = 25_600
    pause_s = (
        frames * PAUSE_PER_FRAME_S
    )  # seconds, because the time that the test itself takes counts as well
    for name in "abc":
        intake.wait(Flood(name, intake, log, left=frames, at_once=frames), heavy=True)
    for heard in ("a", "ab", "abc"):
        await turns()
        assert "".join(log) == heard
        clock.advance(pause_s * 0.9)
        await turns()
        assert "".join(log) == heard, "a pause"
        assert intake.has_room
        clock.advance(pause_s * 0.2)
    intake.wait(Flood("d", intake, log, left=8))
    await turns()
    intake.wait(Flood("e", intake, log, left=frames, at_once=frames), heavy=True)
    await turns()
    assert "".join(log) == "abcde", "the pauses are over"


async def test_pause_is_never_shorter_than_a_timer_of_uvloop_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, pauses_s = asyncio.get_running_loop(), list[float]()
    monkeypatch.setattr(loop, "call_later", lambda delay_s, _: pauses_s.append(delay_s))
    intake = Intake.of(loop)
    intake.wait(Flood("a", intake, [], left=1), heavy=True)
    await turns()
    assert pauses_s == [LEAST_PAUSE_S]
