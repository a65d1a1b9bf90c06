"""Spans of OpenTelemetry, by its API alone. Without ``opentelemetry-api``, or a sampled caller, nothing is made.

The context of a message between nodes is 25 bytes: the trace, the span and its flags. A receiver makes it a link and
never a parent, because everything that may publish can set it.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

from .. import __about__

try:
    from opentelemetry import trace
except ImportError:  # FastAPI brings it since 0.165; otherwise the extra [opentelemetry] does
    trace = None  # type: ignore[assignment]  # None says that it is not installed

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer

SCOPE = "fastapi_websocket_stabilizer"
"""Name of the tracer and of the meter."""
CONTEXT_BYTES = 25
MAX_LINKS = 64
"""Links of one span. The number of those above is its attribute ``stabilizer.links_dropped``."""
_UNTRACED = nullcontext(b"")


def _tracer() -> "Tracer":
    return trace.get_tracer(SCOPE, __about__.__version__)


def _is_sampled() -> bool:
    """Whether the caller is in a sampled span. Each send asks, so the usual answer comes first: there is no span."""
    if trace is None or (span := trace.get_current_span()) is trace.INVALID_SPAN:
        return False
    return span.get_span_context().trace_flags.sampled


def sending(to: Literal["all", "room", "client"], size: int) -> AbstractContextManager[bytes]:
    """Return a block that sends a message of ``size`` bytes. It yields the context that travels with the message.

    If the caller is in a sampled span, the block is a child of it, a span of kind PRODUCER. Otherwise the context is
    empty.
    """
    return _sending(to, size) if _is_sampled() else _UNTRACED


@contextmanager
def _sending(to: str, size: int) -> Iterator[bytes]:
    attributes = {**_operation("send", "send"), "messaging.destination.template": to}
    attributes["messaging.message.body.size"] = size
    kind = trace.SpanKind.PRODUCER
    with _tracer().start_as_current_span(f"send {to}", kind=kind, attributes=attributes) as span:
        yield _packed(span.get_span_context())


class FanOutSpan:
    """The span of one batch of messages from the bus, on one node, of kind CONSUMER.

    It has a link to each sender in a sampled span. Single sockets have none.
    """

    __slots__ = ("_span",)

    def __init__(self, span: "Span") -> None:
        self._span = span

    @classmethod
    def begin(cls, contexts: Iterable[bytes]) -> "FanOutSpan | None":
        """Begin the span of messages with these contexts; None if no context can be used."""
        if trace is None:
            return None
        found = [context for context in map(_unpacked, dict.fromkeys(contexts)) if context is not None]
        if not found:
            return None
        attributes = _operation("fan_out", "process")
        attributes["stabilizer.links_dropped"] = max(0, len(found) - MAX_LINKS)
        # A root, because the worker that fans out keeps the context in which it was started.
        root = trace.set_span_in_context(trace.INVALID_SPAN)
        span = _tracer().start_span(
            "process fan_out",
            context=root,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=[trace.Link(context) for context in found[:MAX_LINKS]],
        )
        return cls(span)

    def end(self, *, messages: int, sockets: int, failed: int) -> None:
        """End the span after the last socket was written to."""
        self._span.set_attributes(
            {
                "messaging.batch.message_count": messages,
                "stabilizer.sockets": sockets,
                "stabilizer.failed": failed,
            }
        )
        self._span.end()


@contextmanager
def step(name: Literal["claim"]) -> Iterator[None]:
    """Make a block a child of the present span, if that is sampled."""
    if _is_sampled():
        with _tracer().start_as_current_span(name):
            yield
    else:
        yield


@contextmanager
def task(name: Literal["drain", "recover", "sweep"]) -> Iterator[None]:
    """Make a block a span without a parent."""
    if trace is None:
        yield
    else:
        root = trace.set_span_in_context(trace.INVALID_SPAN)
        with _tracer().start_as_current_span(name, context=root):
            yield


def _operation(name: str, kind: str) -> dict[str, str | int]:
    """Return attributes of the semantic conventions for messaging."""
    return {
        "messaging.system": "stabilizer",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }


def _packed(context: "SpanContext") -> bytes:
    if not context.trace_flags.sampled:  # the sampler has dropped the span
        return b""
    return context.trace_id.to_bytes(16) + context.span_id.to_bytes(8) + bytes([context.trace_flags])


def _unpacked(data: bytes) -> "SpanContext | None":
    if len(data) != CONTEXT_BYTES:
        return None
    trace_id, span_id = int.from_bytes(data[:16]), int.from_bytes(data[16:24])
    context = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(data[24]))
    return context if context.is_valid and context.trace_flags.sampled else None
