"""Faults, sown into the product on purpose: a proof that finds none of them proves nothing.

They are sown from outside, by replacing a method; the product knows nothing of it. ``SOWN`` in the environment of
a replica names one (``tests.chaos.app``); the simulation sows them in its own process.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi_websocket_stabilizer.registry.claims import Claims
from fastapi_websocket_stabilizer.registry.inspection import Inspection
from fastapi_websocket_stabilizer.registry.lease import Lease
from fastapi_websocket_stabilizer.registry.outbound import Outbound
from fastapi_websocket_stabilizer.registry.presence import Reports, left
from fastapi_websocket_stabilizer.registry.reclaims import Reclaims
from fastapi_websocket_stabilizer.registry.sweep import Sweeper

TIDIED_UP_AFTER_S = 0.5
SOWN = "CHAOS_SEEDED_FAULT"

Wrap = Callable[[Any], Any]


def _fence_off(renew: Any) -> Any:
    """A node that was fenced, or whose lease lapsed, renews it as if nothing had been."""

    async def renew_whatever_happened(self: Any) -> Any:
        await self._nodes.register(self._node, self._describe(), self._ttl_ms)
        return await renew(self)

    return renew_whatever_happened


def _sweep_without_compare(undo: Any) -> Any:
    """A sweep removes the client, not only the dead node's connection of it."""

    async def undo_all(self: Any, line: Any) -> None:
        (entries,) = await self._backend.presence.entries([line.client_id])
        for entry in entries:
            await self._backend.presence.release(line.client_id, entry.connection_id)
        await undo(self, line)

    return undo_all


def _dropped_evict(evict: Any) -> Any:
    """Nobody tells the node of a displaced socket."""

    async def tell_nobody(self: Any, connection_id: str) -> None:
        """Drop it."""

    return tell_nobody


def _doubled_publish(broadcast: Any) -> Any:
    """Every broadcast is published twice."""

    async def broadcast_twice(self: Any, *args: Any, **named: Any) -> Any:
        await broadcast(self, *args, **named)
        return await broadcast(self, *args, **named)

    return broadcast_twice


def _deletion_on_zero_receivers(to_client: Any) -> Any:
    """A client whose node does not listen at this moment is removed from presence, as by somebody who tidies up.

    Not at once: what is missing when the node hears again, it enters again.
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
    """A leave that a node notices of its own connection is confirmed and not reported."""

    async def report_nothing(self: Any, place: Any, event: Any) -> None:
        """Drop it."""

    return report_nothing


def _leave_by_guess(undo: Any) -> Any:
    """A sweep takes a client that is not there for one that it has just removed, and makes a name for that."""

    async def undo_and_guess(self: Any, line: Any) -> None:
        await undo(self, line)
        (entries,) = await self._backend.presence.entries([line.client_id])
        if not entries:
            await self._reports.report(left(line, f"{line.connection_id}:guessed"))

    return undo_and_guess


def _joined_again(claim: Any) -> Any:
    """A connection that is claimed again begins another visit if Redis knows of none."""

    async def claim_anew(self: Any, connection: Any, former: Any) -> Any:
        connection.visit = ""
        return await claim(self, connection, former)

    return claim_anew


def _cancelled_is_left(has_begun: Any) -> Any:
    """A connection whose claim was cancelled is taken for one that was reported."""

    def has_surely_begun(self: Any, place: Any) -> bool:
        return True

    return has_surely_begun


FAULTS: dict[str, tuple[type, str, Wrap]] = {
    "fence off": (Lease, "_renew", _fence_off),
    "sweep without compare": (Sweeper, "_undo", _sweep_without_compare),
    "dropped evict": (Claims, "_evict", _dropped_evict),
    "doubled publish": (Outbound, "broadcast", _doubled_publish),
    "deletion on zero receivers": (Outbound, "to_client", _deletion_on_zero_receivers),
    "unreported leave": (Reports, "follow", _unreported_leave),
    "leave by guess": (Sweeper, "_undo", _leave_by_guess),
    "joined again": (Reclaims, "_claim", _joined_again),
    "cancelled is left": (Reports, "has_begun", _cancelled_is_left),
}


async def _inspect_nothing(_: Any) -> None:
    """Repair nothing."""


@contextmanager
def without_inspection() -> Iterator[None]:
    """Have no node look at its keys each beat: that repairs within a beat what a fault of the protocol breaks."""
    sound = Inspection.inspect
    setattr(Inspection, "inspect", _inspect_nothing)  # noqa: B010 - a method, for mypy
    try:
        yield
    finally:
        setattr(Inspection, "inspect", sound)  # noqa: B010


def sow(name: str) -> None:
    """Put a fault into this process for good, and leave nothing that would repair it.

    Raises:
        KeyError: There is no such fault.
        AttributeError: The product has changed, and the fault must follow it.
    """
    owner, method, wrap = FAULTS[name]
    setattr(owner, method, wrap(getattr(owner, method)))
    setattr(Inspection, "inspect", _inspect_nothing)  # noqa: B010


@contextmanager
def sown(name: str) -> Iterator[None]:
    """Have a fault in this process for the length of a block."""
    owner, method, _ = FAULTS[name]
    sound = getattr(owner, method)
    with without_inspection():
        sow(name)
        try:
            yield
        finally:
            setattr(owner, method, sound)
