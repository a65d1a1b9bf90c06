"""Spans when there is nothing to make them with: no package, no span of a caller, or a context that is none."""

import pytest
from opentelemetry import trace
from opentelemetry.trace import TraceFlags

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from fastapi_websocket_stabilizer.runtime import tracing
from fastapi_websocket_stabilizer.runtime.tracing import CONTEXT_BYTES, FanOutSpan, sending, step, task
from tests.integration.cluster import register
from tests.support.spans import Spans, id_of, linked

CONTEXT = bytes(range(1, CONTEXT_BYTES)) + bytes([TraceFlags.SAMPLED])
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
