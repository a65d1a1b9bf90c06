"""The contract of ``NativeSocket``: what the double of the unit tests does, the class for uvicorn does as well."""

import asyncio
import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from fastapi_websocket_stabilizer.uvicorn import intake
from fastapi_websocket_stabilizer.wire.frames import COMPRESS_FROM_BYTES
from fastapi_websocket_stabilizer.wire.messages import encode
from tests.support.waiting import eventually
from tests.wire.native_lines import CLASSES, KINDS, LIMITS, Kind, Line, LineOfClass
from tests.wire.raw import ANSWER_S, DEFLATE_TAIL, RSV1, Frame, Op, close, text

Check = Callable[[Line], Coroutine[Any, Any, None]]
PING = Frame(Op.PING, mask=None)
LONG_S = 60.0
"""A deadline that does not pass within a test."""
SHORT_S = 0.01


def said(*contents: str) -> list[Frame]:
    return [text(content, mask=None) for content in contents]


def closed(code: int, reason: str) -> Frame:
    return Frame(Op.CLOSE, close(code, reason.encode()).payload, mask=None)


def data(*contents: str) -> bytes:
    return b"".join(frame.encode() for frame in said(*contents))


def on(
    kinds: Sequence[Kind] = KINDS, *, compressed: bool = False
) -> Callable[[Check], Callable[[Kind], None]]:
    """Run a check on an open socket of each kind, on an event loop of its own."""

    def decorate(check: Check) -> Callable[[Kind], None]:
        @pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name)
        def test(kind: Kind) -> None:
            async def run() -> None:
                async with kind.opened(compressed) as line:
                    await check(line)

            with asyncio.Runner(loop_factory=kind.new_loop) as runner:
                runner.run(run())

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


async def gone(line: Line) -> None:
    await eventually(lambda: "gone" in line.noted, what="the observer is notified of the end")


# Writing


@on()
async def test_accepted_socket_is_open(line: Line) -> None:
    native = line.native
    assert (native.is_open, native.is_paused, native.is_reading) == (True, False, True)
    assert (native.transport.is_closing(), native.transport.get_write_buffer_size()) == (False, 0)
    assert line.noted == []


@on()
async def test_frames_are_written_at_the_end_of_the_turn(line: Line) -> None:
    line.native.write_soon(data("1"))
    line.native.write_soon(data("2"))
    assert line.arrived() == []
    await asyncio.sleep(0)
    assert line.arrived(2) == said("1", "2")


@on()
async def test_flush_writes_before_the_end_of_the_turn(line: Line) -> None:
    line.native.write_soon(data("1"))
    line.native.flush()
    assert line.arrived(1) == said("1")
    line.native.flush()
    await asyncio.sleep(0)
    assert line.arrived() == said("1"), "nothing is written twice"


@on()
async def test_write_now_writes_behind_frames_of_the_same_turn(line: Line) -> None:
    line.native.write_soon(data("1"))
    line.native.write_soon(data("2"))
    line.native.write_now(data("3"))
    assert line.arrived(3) == said("1", "2", "3")
    line.native.write_soon(data("4"))
    line.native.write_now(data("5"))
    assert line.arrived(5) == said("1", "2", "3", "4", "5")


@on()
async def test_many_bytes_are_not_kept_until_the_end_of_the_turn(line: Line) -> None:
    big = "x" * 20_000
    line.native.write_soon(data("1"))
    line.native.write_soon(data(big))
    assert line.arrived(2) == said("1", big)


@on()
async def test_ping_is_one_empty_frame(line: Line) -> None:
    line.native.ping()
    await eventually(lambda: line.arrived() == [PING])


@on()
async def test_socket_without_deflate_has_no_window(line: Line) -> None:
    assert line.native.window_bits == 0


@on(compressed=True)
async def test_window_is_the_one_that_the_peer_can_read(line: Line) -> None:
    message = encode("x" * COMPRESS_FROM_BYTES, LIMITS.max_message_size)
    line.native.write_now(message.frame(line.native.window_bits))
    (frame,) = line.arrived(1)
    assert (line.native.window_bits, frame.rsv) == (12, RSV1)
    content = zlib.decompressobj(-line.native.window_bits).decompress(frame.payload + DEFLATE_TAIL)
    assert content == b"x" * COMPRESS_FROM_BYTES


# A peer that reads slowly


@on()
async def test_full_write_buffer_pauses_and_loses_nothing(line: Line) -> None:
    line.native.write_now(data("1"))
    await line.stall()
    assert (line.native.is_paused, line.native.is_open) == (True, True)
    assert line.noted == ["paused"]
    assert line.native.transport.get_write_buffer_size() > 0
    draining = asyncio.create_task(line.native.drain())
    line.native.write_soon(data("2"))
    line.native.write_now(data("3"))
    await asyncio.sleep(0)
    assert not draining.done()
    line.read_on()
    async with asyncio.timeout(ANSWER_S):
        await draining
    assert not line.native.is_paused
    await eventually(lambda: line.arrived() == said("1", "2", "3"))
    await eventually(lambda: line.native.transport.get_write_buffer_size() == 0)


@on()
async def test_drain_of_an_empty_buffer_does_not_wait(line: Line) -> None:
    draining = asyncio.create_task(line.native.drain())
    await asyncio.sleep(0)
    assert draining.done()


@on()
async def test_each_pause_is_an_event(line: Line) -> None:
    for count in (1, 2):
        await line.stall()
        assert line.noted == ["paused"] * count
        line.read_on()
        await line.native.drain()


@on()
async def test_end_of_a_paused_socket_ends_the_wait_for_it(line: Line) -> None:
    await line.stall()
    draining = asyncio.create_task(line.native.drain())
    await asyncio.sleep(0)
    line.leave()
    async with asyncio.timeout(ANSWER_S):
        await draining
    await gone(line)
    assert (line.native.is_open, line.native.is_paused) == (False, False)


# Closing


@on()
async def test_close_frame_is_behind_everything_and_ends_writing_at_once(line: Line) -> None:
    line.native.write_soon(data("1"))
    line.native.hang_up(4000, "bye", LONG_S)
    assert (line.native.is_open, line.noted) == (False, ["cut"])
    await eventually(lambda: line.arrived() == [*said("1"), closed(4000, "bye")])


@on()
async def test_close_ends_when_the_peer_has_answered(line: Line) -> None:
    line.native.hang_up(4000, "bye", LONG_S)
    await eventually(lambda: line.arrived())
    assert "gone" not in line.noted
    line.close(4000)
    await gone(line)
    assert line.noted.index("cut") < line.noted.index("gone")
    assert line.noted.count("gone") == 1


@on()
async def test_second_close_does_nothing(line: Line) -> None:
    line.native.hang_up(4000, "first", LONG_S)
    line.native.hang_up(4001, "second", 0)
    line.native.ping()
    await eventually(lambda: line.arrived())
    await asyncio.sleep(SHORT_S)  # behind the timer that a second close would set
    assert (line.arrived(), "gone" in line.noted) == ([closed(4000, "first")], False)


@on()
async def test_peer_that_does_not_answer_is_cut_off(line: Line) -> None:
    line.native.hang_up(4000, "bye", SHORT_S)
    await gone(line)
    assert line.arrived() == [closed(4000, "bye")]
    assert line.native.transport.is_closing()


@on()
async def test_close_of_a_full_socket_waits_for_the_peer(line: Line) -> None:
    await line.stall()
    line.native.write_soon(data("last"))
    line.native.hang_up(4000, "bye", LONG_S)
    draining = asyncio.create_task(line.native.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    line.read_on()
    await draining
    await eventually(lambda: line.arrived() == [*said("last"), closed(4000, "bye")])
    assert "gone" not in line.noted


@on()
async def test_deadline_ends_the_close_of_a_full_socket(line: Line) -> None:
    await line.stall()
    line.native.hang_up(4000, "bye", SHORT_S)
    async with asyncio.timeout(ANSWER_S):
        await line.native.drain()
    await gone(line)


@on()
async def test_abort_ends_writing_at_once_and_the_socket_soon(line: Line) -> None:
    await line.stall()
    line.native.abort()
    assert (line.native.is_open, line.native.transport.is_closing()) == (False, True)
    assert line.noted == ["paused", "cut"], "the end is an event of a later turn"
    async with asyncio.timeout(ANSWER_S):
        await line.native.drain()
    await gone(line)
    line.native.abort()
    await asyncio.sleep(0)
    assert line.noted.count("gone") == 1


@on()
async def test_writes_after_the_end_are_dropped(line: Line) -> None:
    line.native.write_now(data("1"))
    line.native.abort()
    for _ in range(2):
        line.native.write_soon(data("2"))
        line.native.flush()
        line.native.write_soon(data("3"))
        line.native.ping()
        line.native.hang_up(4000, "bye", LONG_S)
        await gone(line)
    assert line.arrived() == said("1")


# Observers


@on()
async def test_every_observer_is_notified_until_it_is_detached(line: Line) -> None:
    other, detached = line.attach(), line.attach()
    line.native.detach(detached)
    await line.stall()
    line.native.abort()
    await gone(line)
    assert line.noted == other.noted
    assert {"paused", "cut", "gone"} <= set(other.noted)
    assert detached.noted == []


@on()
async def test_detached_socket_stays_open(line: Line) -> None:
    line.native.detach(line.observer)
    line.native.write_soon(data("1"))
    await eventually(lambda: line.arrived() == said("1"))
    assert line.native.is_open


@on()
async def test_observer_of_a_closed_socket_is_notified_later(line: Line) -> None:
    line.native.abort()
    await gone(line)
    late = line.attach()
    assert late.noted == []
    await asyncio.sleep(0)
    assert late.noted == ["gone"]


@on()
async def test_end_of_the_application_is_an_event_and_the_end(line: Line) -> None:
    line.end_application()
    await gone(line)
    assert line.noted[0] == "abandoned"
    assert not line.native.is_open


# Reading


@on()
async def test_parked_socket_stays_open_without_its_application(line: Line) -> None:
    line.native.park(line.inbox)
    line.end_application()
    line.send("hello")
    await eventually(lambda: line.inbox.events == ["hello"])
    line.native.write_soon(data("hello yourself"))
    await eventually(lambda: line.arrived() == said("hello yourself"))
    assert (line.native.is_open, line.noted) == (True, ["heard"])


@on()
async def test_next_message_comes_when_reading_is_resumed(line: Line) -> None:
    line.native.park(line.inbox)
    line.send("1", "2")
    await eventually(lambda: line.inbox.events == ["1"])
    assert not line.native.is_reading
    await asyncio.sleep(0)
    assert line.inbox.events == ["1"]
    line.native.resume_reading()
    await eventually(lambda: line.inbox.events == ["1", "2"])
    line.native.resume_reading()
    assert line.native.is_reading


@on()
async def test_message_that_the_application_has_not_taken_is_parked_too(line: Line) -> None:
    line.send("1")
    await eventually(lambda: "heard" in line.noted)
    assert not line.native.is_reading
    line.native.park(line.inbox)
    assert line.inbox.events == ["1"]


@on()
async def test_end_of_the_peer_comes_behind_its_messages(line: Line) -> None:
    line.native.park(line.inbox)
    line.send("1", "2")
    line.leave()
    await eventually(lambda: line.inbox.events == ["1"])
    line.native.resume_reading()
    await eventually(lambda: line.inbox.events == ["1", "2"])
    line.native.resume_reading()
    await eventually(lambda: line.inbox.events == ["1", "2", "1006"])
    await gone(line)
    assert "cut" in line.noted


@on()
async def test_messages_that_arrived_before_the_end_still_wait_for_the_application(line: Line) -> None:
    line.native.park(line.inbox)
    line.send("1", "2")
    await eventually(lambda: line.inbox.events == ["1"])
    line.native.abort()
    await gone(line)
    assert line.inbox.events == ["1"]
    line.native.resume_reading()
    await eventually(lambda: line.inbox.events == ["1", "2"])
    line.native.resume_reading()
    await eventually(lambda: line.inbox.events == ["1", "2", "1006"])


@on()
async def test_close_frame_of_the_peer_is_its_last_event(line: Line) -> None:
    line.native.park(line.inbox)
    line.close(4001, "done")
    await gone(line)
    assert line.inbox.events[0] == "4001 done"
    assert not line.native.is_open


@on()
async def test_own_close_is_an_event_of_the_inbox_at_once(line: Line) -> None:
    line.native.park(line.inbox)
    line.native.hang_up(4000, "bye", LONG_S)
    assert line.inbox.events == ["4000 bye"]
    line.send("too late")
    line.close(4000)
    await gone(line)
    assert "too late" not in line.inbox.events


# Only the class has a parser


@on(CLASSES)
async def test_refused_message_is_an_event_with_its_code(line: Line) -> None:
    line.native.park(line.inbox)
    line.send("x" * (LIMITS.max_message_size + 1))
    await eventually(lambda: "refused 1009" in line.noted)
    assert not line.native.is_open


@on(CLASSES)
async def test_more_frames_than_one_turn_may_parse_are_an_event(line: Line) -> None:
    assert isinstance(line, LineOfClass)
    line.native.park(line.inbox)
    line.send_pongs(LIMITS.inbound_frames_per_turn + 1)
    await eventually(lambda: "deferred" in line.noted)
    line.send("behind them")
    await eventually(lambda: line.inbox.events == ["behind them"])


@on(CLASSES)
async def test_peer_that_has_hung_up_is_not_paced_any_more(line: Line) -> None:
    """Every pause after its end takes longer than the test."""
    assert isinstance(line, LineOfClass)
    line.native.park(line.inbox)
    line.send_pongs(5_000)
    await eventually(lambda: "deferred" in line.noted)
    assert "gone" not in line.noted
    line.leave()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "PAUSE_PER_FRAME_S", LONG_S)
        await gone(line)
