"""Spans when there is nothing to make them with: no package, no span of a caller, or a context that is none."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import TraceFlags

from fastapi_websocket_stabilizer import Connection, WebSocketConnectionManager
from fastapi_websocket_stabilizer.local.batches import Broadcast
from fastapi_websocket_stabilizer.runtime import tracing
from fastapi_websocket_stabilizer.runtime.tracing import (
    CONTEXT_BYTES,
    MAX_LINKS,
    FanOutSpan,
    sending,
    step,
    task,
)
from fastapi_websocket_stabilizer.wire.messages import Encoded, Form
from tests.integration.cluster import Socket, hears, register
from tests.support.spans import Spans, id_of, linked

CONTEXT = bytes(range(1, CONTEXT_BYTES)) + bytes([TraceFlags.SAMPLED])
SAMPLED = trace.SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
NO_CONTEXTS = {
    "empty": b"",
    "too short": CONTEXT[1:],
    "too long": CONTEXT + b"\0",
    "no trace": bytes(16) + CONTEXT[16:],
    "no span": CONTEXT[:16] + bytes(8) + CONTEXT[24:],
    "not sampled": CONTEXT[:24] + b"\0",
}


def test_without_the_package_blocks_run_and_messages_have_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "trace", None)
    with sending("all", 5) as context, step("claim"), task("sweep"):
        assert context == b""
    assert FanOutSpan.begin([CONTEXT]) is None


def test_message_of_a_caller_without_a_span_has_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans(monkeypatch)
    with sending("all", 5) as context, step("claim"):
        assert context == b""
    assert spans.named("") == []


@pytest.mark.parametrize("context", NO_CONTEXTS.values(), ids=NO_CONTEXTS)
def test_context_that_is_none_makes_no_span(monkeypatch: pytest.MonkeyPatch, context: bytes) -> None:
    spans = Spans(monkeypatch)
    assert FanOutSpan.begin([context]) is None
    span = FanOutSpan.begin([context, CONTEXT, CONTEXT])
    assert span is not None
    span.end(messages=3, sockets=2, failed=1)
    (found,) = spans.named("process")
    assert len(found.links) == 1


def test_no_more_contexts_are_looked_at_than_there_may_be_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger may put hundreds of thousands into one envelope."""
    spans, looked_at = Spans(monkeypatch), list[bytes]()
    real = tracing._unpacked

    def noted(data: bytes) -> trace.SpanContext | None:
        looked_at.append(data)
        return real(data)

    monkeypatch.setattr(tracing, "_unpacked", noted)
    span = FanOutSpan.begin(number.to_bytes(24) + CONTEXT[24:] for number in range(2**64 + 1, 2**64 + 5_001))
    assert span is not None
    span.end(messages=5_000, sockets=0, failed=0)
    (found,) = spans.named("process")
    assert (len(looked_at), len(found.links)) == (MAX_LINKS, MAX_LINKS)
    assert (found.attributes or {})["stabilizer.links_dropped"] == 5_000 - MAX_LINKS


def test_span_that_the_sampler_drops_has_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans(monkeypatch)
    monkeypatch.setattr(trace, "get_tracer", spans.unsampled.get_tracer)
    with spans.caller(), sending("all", 5) as context:
        assert context == b""


async def test_fan_out_has_no_parent_also_in_the_task_of_its_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process without ``start``, a broadcast is fanned out by its caller."""
    spans, manager = Spans(monkeypatch), WebSocketConnectionManager()
    for name in ("alice", "bob", "carol"):
        await register(manager, name)
    with spans.caller():
        await manager.broadcast("hello", exclude_client="bob")
    (sender,), (found,) = spans.named("send all"), spans.named("process")
    assert found.parent is None
    assert linked(found) == [id_of(sender)]
    assert found.attributes is not None
    assert found.attributes["stabilizer.sockets"] == 2


class Broken(SpanProcessor):
    """A processor of the application that raises: when a span begins, or when it ends."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, *_: object, **__: object) -> None:
        if self._where == "start":
            raise RuntimeError("broken at the start")

    def on_end(self, *_: object) -> None:
        if self._where == "end":
            raise RuntimeError("broken at the end")


@pytest.mark.parametrize("where", ["start", "end"])
async def test_sdk_that_raises_costs_the_span_and_no_message(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    spans = Spans(monkeypatch)
    spans.sampled.add_span_processor(Broken(where))
    async with WebSocketConnectionManager() as manager:  # with a worker that fans out
        socket = Socket()
        await register(manager, "alice", socket)
        with trace.use_span(trace.NonRecordingSpan(SAMPLED)):
            for number in range(3):
                result = await manager.broadcast(str(number))
                assert (result.succeeded, result.failed) == (1, 0)
            assert await manager.send_to_client("alice", "direct")
        manager._state.fan_out.submit(Broadcast(traced("from afar")))
        await hears(socket, "0", "1", "2", "direct", "from afar")
        await manager.drain(0.1)
        assert manager.statistics().fan_out_queued_bytes == 0


async def test_hooks_within_a_drain_are_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    spans, manager = Spans(monkeypatch), WebSocketConnectionManager()

    @manager.on_disconnect
    async def tell(connection: Connection, code: int, reason: str) -> None:
        await manager.broadcast(f"{connection.client_id} has left")

    async with manager:
        await register(manager, "alice")
        await manager.drain(0.1)
        await asyncio.sleep(0)
    assert [span.name for span in spans.named("")] == ["drain"]


@pytest.mark.parametrize("is_started", [False, True], ids=["by the caller", "by the worker"])
async def test_parts_of_one_message_are_counted_once(
    monkeypatch: pytest.MonkeyPatch, is_started: bool
) -> None:
    """With clients of ``stabilizer.v1``, a message to several rooms has a part for each."""
    spans, manager = Spans(monkeypatch), WebSocketConnectionManager()
    manager._state.has_met_sessions = True
    if is_started:
        await manager.start()
    for name, rooms in {"alice": "a", "bob": "b", "carol": "ab"}.items():
        await register(manager, name)
        for room in rooms:
            await manager.join(name, room)
    with spans.caller():
        await manager.broadcast("hello", room=["a", "b"])
    found = [span.attributes or {} for span in spans.named("process")]
    assert [each["messaging.batch.message_count"] for each in found] == ([1] if is_started else [1, 1])
    assert sum(int(str(each["stabilizer.sockets"])) for each in found) == 3
    await manager.graceful_shutdown()


def traced(text: str) -> Encoded:
    message = Encoded(Form.TEXT, text, len(text))
    message.trace = CONTEXT
    return message
