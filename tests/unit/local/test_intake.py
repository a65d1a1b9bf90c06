"""A turn of the event loop is shared among the sockets that have more to parse than it allows."""

import asyncio
from dataclasses import dataclass, field

from fastapi_websocket_stabilizer.local.intake import FRAMES_PER_TURN, Intake
from tests.unit.fakes import turns


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


async def test_budget_is_spent_while_a_socket_waits_and_whole_again_in_the_next_turn() -> None:
    intake, log = Intake.of(asyncio.get_running_loop()), list[str]()
    assert not intake.is_spent
    intake.spend(FRAMES_PER_TURN)
    assert intake.is_spent
    await turns(2)
    assert not intake.is_spent
    intake.wait(Flood("a", intake, log, left=1))
    assert intake.is_spent, "a later socket does not overtake one that waits"
    await turns(3)
    assert (log, intake.is_spent) == (["a"], False)


async def test_one_heavy_frame_ends_the_turn_for_the_others() -> None:
    intake, log = Intake.of(asyncio.get_running_loop()), list[str]()
    for name in "ab":
        intake.wait(Flood(name, intake, log, left=256, at_once=256))
    await asyncio.sleep(0)
    assert log == ["a"]
    await turns()
    assert log == ["a", "b"]
