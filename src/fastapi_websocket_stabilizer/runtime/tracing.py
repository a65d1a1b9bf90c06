"""Spans of OpenTelemetry, by its API alone. Without ``opentelemetry-api``, or a sampled caller, nothing is made.

The context of a message between nodes is 25 bytes: the trace, the span and its flags. A receiver makes it a link and
never a parent, because everything that may publish can set it.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Literal

from .. import __about__
from .logs import Occasionally

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace
except ImportError:  # FastAPI brings it since 0.165; otherwise the extra [opentelemetry] does
    trace = None  # type: ignore[assignment]  # None says that it is not installed

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind

SCOPE = "fastapi_websocket_stabilizer"
"""Name of the tracer and of the meter."""
CONTEXT_BYTES = 25  # ``TRACE_BYTES`` of wire/envelopes.py
MAX_LINKS = 64
"""Links of one span. The number of those above is its attribute ``stabilizer.links_dropped``."""
_UNTRACED = nullcontext(b"")
_trouble = Occasionally(logging.getLogger(__name__))


def _start(
    name: str,
    kind: "SpanKind",
    attributes: Mapping[str, str | int] | None = None,
    *,
    is_root: bool = False,
    links: "Sequence[Link] | None" = None,
) -> "Span | None":
    """Start a span. A sampler or a processor of the application may raise: then there is none."""
    try:
        tracer = trace.get_tracer(SCOPE, __about__.__version__)
        parent = trace.set_span_in_context(trace.INVALID_SPAN) if is_root else None
        return tracer.start_span(name, parent, kind, attributes, links)
    except Exception as error:  # noqa: BLE001 - code of the application
        _trouble.log("a span could not be started", error=repr(error))
        return None


def _end(span: "Span", error: Exception | None = None) -> None:
    try:
        if error is not None:
            span.record_exception(error)
            span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        span.end()
    except Exception as raised:  # noqa: BLE001 - code of the application
        _trouble.log("a span could not be ended", error=repr(raised))


@contextmanager
def _within(span: "Span | None", *, is_current: bool) -> Iterator[None]:
    """End a span with the block. With ``is_current``, spans that are made in the block are its children."""
    if span is None:
        yield
        return
    token = otel_context.attach(trace.set_span_in_context(span)) if is_current else None
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
        raise
    finally:
        if token is not None:
            otel_context.detach(token)
        _end(span, failed)


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
    span = _start(f"send {to}", trace.SpanKind.PRODUCER, attributes)
    with _within(span, is_current=True):
        yield b"" if span is None else _packed(span.get_span_context())


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
        # The sender chooses their number, so no more are looked at than there may be links.
        distinct = dict.fromkeys(contexts)
        found = list(islice(filter(None, map(_unpacked, distinct)), MAX_LINKS))
        if not found:
            return None
        attributes = _operation("fan_out", "process")
        attributes["stabilizer.links_dropped"] = max(0, len(distinct) - MAX_LINKS)
        links = [trace.Link(context) for context in found]
        # A root, because the worker that fans out keeps the context in which it was started.
        span = _start("process fan_out", trace.SpanKind.CONSUMER, attributes, is_root=True, links=links)
        return None if span is None else cls(span)

    def end(self, *, messages: int, sockets: int, failed: int) -> None:
        """End the span after the last socket was written to."""
        self._span.set_attributes(
            {
                "messaging.batch.message_count": messages,
                "stabilizer.sockets": sockets,
                "stabilizer.failed": failed,
            }
        )
        _end(self._span)


def step(name: Literal["claim"]) -> AbstractContextManager[None]:
    """Make a block a child of the present span, if that is sampled."""
    span = _start(name, trace.SpanKind.INTERNAL) if _is_sampled() else None
    return _within(span, is_current=True)


def task(name: Literal["drain", "recover", "sweep"]) -> AbstractContextManager[None]:
    """Make a block a span without a parent and without children: what hooks send in it is not of its trace."""
    span = None if trace is None else _start(name, trace.SpanKind.INTERNAL, is_root=True)
    return _within(span, is_current=False)


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
