"""The state of one client in sentences. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..models import CloseCause, ClosedConnection, ConnectionView
from ..names import ConnectionId, NodeId, printable
from .text import counted, duration, size

MEANINGS: Mapping[CloseCause, str] = {
    CloseCause.PEER_CLOSED: "The client closed it.",
    CloseCause.PEER_GONE: "The client vanished: a lost network, a closed lid, or a proxy with a time limit.",
    CloseCause.RELEASED: "The handler of the application returned, or closed it.",
    CloseCause.HANDLER_ERROR: "The handler of the application raised. See the log of the node.",
    CloseCause.REPLACED: "A newer connection of the client took its place. See max_connections_per_client.",
    CloseCause.KICKED: "manager.disconnect, or an operator, closed it.",
    CloseCause.OVER_LIMIT: "After an outage of Redis, it had more than max_connections_per_client.",
    CloseCause.EVICTED: "The node reached max_total_memory.",
    CloseCause.EXPIRED: "Its credentials had expired. Clients of stabilizer.v1 can renew theirs.",
    CloseCause.TOO_LARGE: "It sent more than max_message_size in one message.",
    CloseCause.PROTOCOL_ERROR: "It broke a rule of WebSocket or of stabilizer.v1.",
    CloseCause.TIMED_OUT: "It did not answer a ping within heartbeat_timeout: a dead network, or a frozen page.",
    CloseCause.SLOW: "It did not read what was sent: see outbox_size and write_timeout_s.",
    CloseCause.WRITE_FAILED: "A write failed. See the error.",
    CloseCause.DRAINED: "Its node was drained, and told it when to come back.",
    CloseCause.SHUTDOWN: "Its node was shut down.",
}
SLOW_SHARE = 0.5
"""Share of ``outbox_size`` above which a client is about to be closed."""
EXPIRES_SOON_S = 60.0
"""Seconds before the end of its credentials in which a connection counts as expiring."""
RETURNS = 3
"""Ends of one client that are shown in full."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The state of one client, as far as it is known.

    Attributes:
        client_id: The client.
        connections: Its open connections, the oldest first.
        closed: Its connections that have ended, the newest first, as far as nodes remember them.
        ghosts: Connections that Redis lists and that their node does not have.
        silent: Why nodes have not answered.
        names: Display names of nodes.
        at: The time of the look, UTC.
    """

    client_id: str
    connections: list[ConnectionView]
    closed: list[ClosedConnection]
    ghosts: list[ConnectionId]
    silent: dict[NodeId, str]
    names: dict[NodeId, str]
    at: datetime = field(compare=False)

    @property
    def verdict(self) -> list[str]:
        """Sentences that say what is wrong, or that nothing is."""
        found = [*self._of_connections(), *self._of_ends(), *self._of_nodes()]
        return found or ["Nothing is wrong with its connections."]

    def _of_connections(self) -> Iterator[str]:
        for each in self.connections:
            name = each.connection_id
            if each.queued_bytes > SLOW_SHARE * each.queued_limit:
                yield (
                    f"{name} reads too slowly: {size(each.queued_bytes)} of {size(each.queued_limit)} wait. "
                    f"It will be closed with 4008, or lose messages."
                )
            elif each.is_behind:
                yield f"{name} reads slowly. Its stored messages wait in their log."
            if each.is_asked and each.silent_s > 1:
                yield f"{name} has not answered the last ping. Nothing came from it for {duration(each.silent_s)}."
            if each.expires_s is not None and each.expires_s < EXPIRES_SOON_S:
                yield f"The credentials of {name} expire in {duration(max(0.0, each.expires_s))}."
        for ghost in self.ghosts:
            yield (
                f"Redis lists {ghost}, and its node does not have it. If it has not just ended, "
                "the node is dead or cut off, and a sweep removes the entry within a lease."
            )

    def _of_ends(self) -> Iterator[str]:
        if not self.connections:
            yield "It is not connected."
        if self.closed:
            last = self.closed[0]
            yield f"Its last connection ended {self._ago(last)} ago. {MEANINGS[last.cause]}"
        elif not self.connections:
            yield "No node remembers a connection of it: it was never here, or its ends were forgotten."
        recent = [each for each in self.closed if (self.at - each.at).total_seconds() < 60]
        if len(recent) >= 5:
            causes = sorted({each.cause.value for each in recent})
            yield (
                f"It reconnects again and again: {counted(len(recent), 'connection')} ended within a minute "
                f"({', '.join(causes)})."
            )

    def _of_nodes(self) -> Iterator[str]:
        for node, why in self.silent.items():
            yield f"{self._name(node)} has not answered ({why}), so what it holds is not known."

    def _ago(self, end: ClosedConnection) -> str:
        return duration(max(0.0, (self.at - end.at).total_seconds()))

    def _name(self, node: NodeId) -> str:
        return f"{self.names.get(node, '?')} ({node})"

    def as_text(self) -> str:
        """Return what ``stabilizer explain`` prints."""
        lines = [f"{printable(self.client_id)}: {counted(len(self.connections), 'connection')}"]
        lines += [f"  {line}" for each in self.connections for line in self._open(each)]
        lines += [f"  {self._ended(each)}" for each in self.closed[:RETURNS]]
        if len(self.closed) > RETURNS:
            lines.append(f"  and {len(self.closed) - RETURNS} earlier ones: stabilizer closed --client")
        return "\n".join([*lines, *map(printable, self.verdict)])

    def _open(self, view: ConnectionView) -> Sequence[str]:
        ping = "" if view.ping_s is None else f", ping {duration(view.ping_s)}"
        state = "parked" if view.is_parked else "served by a task"
        first = (
            f"{view.connection_id} on {self._name(view.node)}: open for {duration(view.open_s)}, "
            f"heard {duration(view.silent_s)} ago{ping}, outbox {size(view.queued_bytes)} "
            f"of {size(view.queued_limit)}"
        )
        rooms = ", ".join(view.rooms) + (", …" if view.room_count > len(view.rooms) else "")
        second = f"{view.protocol or 'plain'}, {state}, {counted(view.room_count, 'room')}"
        return printable(first), printable(f"  {second}: {rooms}" if rooms else f"  {second}")

    def _ended(self, end: ClosedConnection) -> str:
        text = f"{end.connection_id} on {self._name(end.node)}: ended {self._ago(end)} ago, {end.cause.value}"
        text += f" ({end.code}, {end.reason!r})" if end.reason else f" ({end.code})"
        text += f", open for {duration(end.lasted_s)}, heard {duration(end.silent_s)} before its end"
        if end.queued_bytes:
            text += f", {size(end.queued_bytes)} not sent"
        return printable(text + (f", error: {end.error}" if end.error else ""))
