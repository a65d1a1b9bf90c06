"""Sown faults: defects that are planted in the library to prove that the checks find them.

Each replaces a method from outside, so the library does not change. ``SOWN`` in the environment of a replica names
one (``tests.chaos.app``). The simulation sows them in its own process.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fastapi_websocket_stabilizer.backends.memory_logs import Log
from fastapi_websocket_stabilizer.backends.redis import scripts
from fastapi_websocket_stabilizer.backends.redis.scripts import Script
from fastapi_websocket_stabilizer.registry import members
from fastapi_websocket_stabilizer.registry.broadcasts import Broadcasts
from fastapi_websocket_stabilizer.registry.history import History
from fastapi_websocket_stabilizer.registry.inboxes import Inboxes
from fastapi_websocket_stabilizer.registry.inspection import Inspection
from fastapi_websocket_stabilizer.registry.lease import RenewedLease
from fastapi_websocket_stabilizer.registry.outbound import Outbound
from fastapi_websocket_stabilizer.registry.presence import Reports, left
from fastapi_websocket_stabilizer.registry.reclaims import Reclaims
from fastapi_websocket_stabilizer.registry.registration import registration_of
from fastapi_websocket_stabilizer.registry.sweep import Sweeper
from fastapi_websocket_stabilizer.sessions.following import Following

TIDIED_UP_AFTER_S = 0.5
SOWN = "CHAOS_SEEDED_FAULT"

Wrap = Callable[[Any], Any]


def _fence_off(renew: Any) -> Any:
    """A node renews its lease even if it was fenced or the lease has lapsed."""

    async def renew_whatever_happened(self: Any) -> Any:
        await self._nodes.register(self._node, self._describe(), self._ttl_ms)
        return await renew(self)

    return renew_whatever_happened


def _sweep_without_compare(undo: Any) -> Any:
    """A sweep removes all connections of a client, not only that of the dead node."""

    async def undo_all(self: Any, line: Any) -> None:
        (entries,) = await self._backend.presence.entries([line.client_id])
        for entry in entries:
            await self._backend.presence.release(line.client_id, entry.connection_id)
        await undo(self, line)

    return undo_all


def _dropped_evict(evict: Any) -> Any:
    """No evict is sent to the node of a displaced socket."""

    async def tell_nobody(self: Any, connection_id: str, by: str) -> None:
        """Do nothing."""

    return tell_nobody


def _doubled_publish(broadcast: Any) -> Any:
    """Every broadcast is published twice."""

    async def broadcast_twice(self: Any, *args: Any, **named: Any) -> Any:
        await broadcast(self, *args, **named)
        return await broadcast(self, *args, **named)

    return broadcast_twice


def _deletion_on_zero_receivers(to_client: Any) -> Any:
    """A client is removed from presence if its node is not subscribed at the moment of a send.

    The removal is delayed, because a node claims missing entries again when its bus returns.
    """

    async def delete(self: Any, client_id: str) -> None:
        await asyncio.sleep(TIDIED_UP_AFTER_S)
        presence = self._state.backend.presence
        (entries,) = await presence.entries([client_id])
        for entry in entries:
            await presence.release(client_id, entry.connection_id)

    async def send_or_delete(self: Any, client_id: str, *args: Any) -> Any:
        is_taken = await to_client(self, client_id, *args)
        if not is_taken:
            self._state.tasks.spawn(delete(self, client_id), "tidy-up")
        return is_taken

    return send_or_delete


def _unreported_leave(follow: Any) -> Any:
    """A node confirms the leave of its own connection without reporting it."""

    async def report_nothing(self: Any, place: Any, event: Any) -> None:
        """Do nothing."""

    return report_nothing


def _leave_by_guess(undo: Any) -> Any:
    """A sweep reports a leave, with an invented id, for every client without entries."""

    async def undo_and_guess(self: Any, line: Any) -> None:
        await undo(self, line)
        (entries,) = await self._backend.presence.entries([line.client_id])
        if not entries:
            await self._reports.report(left(line, f"{line.connection_id}:guessed"))

    return undo_and_guess


def _joined_again(claim: Any) -> Any:
    """A connection that is claimed again begins a new visit if Redis has none of its client."""

    async def claim_anew(self: Any, connection: Any, former: Any) -> Any:
        registration_of(connection).visit = ""
        return await claim(self, connection, former)

    return claim_anew


def _cancelled_is_left(has_begun: Any) -> Any:
    """A cancelled claim is treated as one whose join was reported."""

    def has_surely_begun(self: Any, place: Any) -> bool:
        return True

    return has_surely_begun


def _filter_skipped(_: Any) -> Any:
    """A replay has also the entries that exclude its client."""

    def is_excluded(*_: Any) -> bool:
        return False

    return is_excluded


def _join_without_cursor(_: Any) -> Any:
    """A connection begins at the end of each log, whatever its cursor is."""

    def cursor(self: Any, log: Any) -> None:
        self._late |= {log}

    return cursor


def _verify_skipped(answer: Any) -> Any:
    """A node does not compare a log with what it has received, although the server has changed."""

    async def read_only(self: Any, log: Any, read: Any) -> Any:
        return await answer(self, log, read._replace(heard=None))

    return read_only


def _trim_without_base(trim: Any) -> Any:
    """A log forgets up to where it was trimmed."""

    def keep_base(self: Any, *bounds: Any) -> Any:
        base = self.base
        trimmed = trim(self, *bounds)
        self.base = base
        return trimmed

    return keep_base


def _id_used_twice(script: Any) -> Any:
    """A message has the id of the one before it in its log."""
    return _changed(script, "math.max(last, top) + 1", "(top > 0 and top or last + 1)")


def _changed(script: Script, old: str, new: str) -> Script:
    assert script.source.count(old) == 1, f"{script.name} has changed, so the fault must be changed"
    source = script.source.replace(old, new)
    return replace(
        script, source=source, sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    )


FAULTS: dict[str, tuple[type, str, Wrap]] = {
    "fence off": (RenewedLease, "_renew", _fence_off),
    "sweep without compare": (Sweeper, "_undo", _sweep_without_compare),
    "dropped evict": (Inboxes, "evict", _dropped_evict),
    "doubled publish": (Broadcasts, "send", _doubled_publish),
    "deletion on zero receivers": (Outbound, "to_client", _deletion_on_zero_receivers),
    "unreported leave": (Reports, "follow", _unreported_leave),
    "leave by guess": (Sweeper, "_undo", _leave_by_guess),
    "joined again": (Reclaims, "_claim", _joined_again),
    "cancelled is left": (Reports, "has_begun", _cancelled_is_left),
}
OF_LOGS: dict[str, tuple[Any, str, Wrap]] = {
    "filter skipped": (members, "is_excluded", _filter_skipped),
    "join without cursor": (Following, "cursor", _join_without_cursor),
    "id used twice": (scripts, "LOG_APPEND", _id_used_twice),
}
"""Faults that only followers of logs notice."""
OF_MEMORY: dict[str, tuple[Any, str, Wrap]] = {
    "trim without base": (Log, "trim", _trim_without_base),
    "verify skipped": (History, "_answer", _verify_skipped),
}
"""Faults that only the simulation finds for certain. In a chaos run, most followers are told of a loss anyway."""


async def _inspect_nothing(_: Any) -> None:
    """Do nothing."""


@contextmanager
def without_inspection() -> Iterator[None]:
    """Disable the inspection of keys, which would repair within a beat the damage of a sown fault."""
    sound = Inspection.inspect
    setattr(Inspection, "inspect", _inspect_nothing)  # noqa: B010 - a method, for mypy
    try:
        yield
    finally:
        setattr(Inspection, "inspect", sound)  # noqa: B010


def sow(name: str) -> None:
    """Plant a fault in this process permanently, and disable the inspection that would repair its damage.

    Raises:
        KeyError: There is no such fault.
        AttributeError: The method was renamed, so the fault must be changed.
    """
    owner, method, wrap = (FAULTS | OF_LOGS | OF_MEMORY)[name]
    setattr(owner, method, wrap(getattr(owner, method)))
    setattr(Inspection, "inspect", _inspect_nothing)  # noqa: B010


@contextmanager
def sown(name: str) -> Iterator[None]:
    """Plant a fault in this process during the block."""
    owner, method, _ = (FAULTS | OF_LOGS | OF_MEMORY)[name]
    sound = getattr(owner, method)
    with without_inspection():
        sow(name)
        try:
            yield
        finally:
            setattr(owner, method, sound)
