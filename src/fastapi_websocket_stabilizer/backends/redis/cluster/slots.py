"""The owner of each slot of a cluster, from regular CLUSTER SLOTS and from redirections."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from ....exceptions import BackendUnavailableError, ConfigurationError
from ....runtime.logs import Occasionally
from ....runtime.loops import running_loop
from ..connection import ConnectionFactory, server_info
from ..sockets import close
from ..urls import Address

log: logging.Logger = logging.getLogger(__name__)

SLOTS = 16384
REFRESH_S = 1.0
"""Seconds between two reads of the slot map. A redirection also updates its slot."""
ANSWER_S = 0.5
"""Seconds for one server to answer, before the next is tried."""
FRESH_S = 2.0
"""Seconds for which a MOVED reply overrides a slot map that may still be stale."""
RETRY_S = 0.05
"""Seconds before the retry of a slot that no server accepts, or that two servers redirect to each other."""

SHARDED_SINCE = 7
"""The first major version with sharded Pub/Sub."""

OnChange = Callable[[dict[int, Address]], None]
"""A callback for the former owners of slots that moved. Called after each read of the map, also with none."""


class SlotTable:
    """The owners of all slots, shared by the commands and the bus of a node."""

    def __init__(self, factory: ConnectionFactory, seeds: Iterable[Address]) -> None:
        self._factory, self._seeds = factory, tuple(seeds)
        self._owners: list[Address | None] = [None] * SLOTS
        self._learned: dict[int, float] = {}  # slot -> when
        self._ranges: list[Any] = []  # the last slot map; empty if a redirection has changed it
        self._listeners: list[OnChange] = []
        self._connection: Connection | None = None
        self._asked = self._seeds[0]
        self._task: asyncio.Task[None] | None = None
        self._trouble = Occasionally(log)
        self.nodes: frozenset[Address] = frozenset()
        self.is_sharded: bool = False
        """Whether every primary has sharded Pub/Sub (Redis 7)."""

    def listen(self, on_change: OnChange) -> None:
        """Call ``on_change`` after each change, in the same turn of the event loop."""
        self._listeners.append(on_change)

    def owner(self, slot: int) -> Address:
        """Return the primary of a slot. For an unassigned slot return any server, which answers with an error."""
        return self._owners[slot] or self._asked

    async def start(self) -> None:
        """Read the slot map, and begin to poll it.

        Raises:
            BackendUnavailableError: No server of the cluster answers.
            ConfigurationError: The server rejects the credentials, or is not in a cluster.
        """
        if self._task is None:
            await self._refresh(self._factory.timeout_s)
            self.serve()

    def serve(self) -> None:
        """Begin to poll the slot map; ``nodes`` is empty until a server has answered."""
        if self._task is None:
            self._task = asyncio.create_task(self._refresh_for_ever(), name="redis-slots")

    @property
    def is_known(self) -> bool:
        """Whether a slot map or a redirection was received."""
        return bool(self.nodes)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self._hang_up()

    def learn(self, slot: int, owner: Address) -> None:
        """Apply a redirection, unless the slot had another within ``RETRY_S``."""
        now_s = running_loop().time()
        if now_s - self._learned.get(slot, -RETRY_S) >= RETRY_S:
            self._learned[slot] = now_s
            self._ranges = []
            self.nodes |= {owner}
            self._tell(self._enter([(slot, owner)]))

    def _use(self, ranges: list[Any], asked: Address) -> None:
        """Apply a slot map, except for slots with a recent redirection. Usually nothing has changed."""
        now_s, former = running_loop().time(), dict[int, Address]()
        self._learned = {slot: at_s for slot, at_s in self._learned.items() if now_s - at_s < FRESH_S}
        if ranges != self._ranges:
            found = _owners(ranges, asked.host)
            former = self._enter((slot, owner) for slot, owner in found if slot not in self._learned)
            self.nodes = frozenset(owner for owner in self._owners if owner is not None)
            self._ranges = [] if self._learned else ranges
        self._tell(former)

    def _enter(self, owners: Iterable[tuple[int, Address]]) -> dict[int, Address]:
        """Set owners; return the former owners of the slots that moved."""
        former: dict[int, Address] = {}
        for slot, owner in owners:
            before, self._owners[slot] = self._owners[slot], owner
            if before is not None and before != owner:
                former[slot] = before
        return former

    def _tell(self, former: dict[int, Address]) -> None:
        if former:
            log.info("slots moved", extra={"slots": len(former)})
        for on_change in self._listeners:
            try:
                on_change(former)
            except Exception:  # the other listeners must still be called
                log.exception("a listener failed to handle a slot change")

    async def _refresh_for_ever(self) -> None:
        while True:
            try:
                await self._refresh()
            except (BackendUnavailableError, ConfigurationError) as error:
                self._trouble.log("no map of the cluster", error=str(error))
            except Exception:  # the supervisor: without it, moved slots would go unnoticed
                log.exception("the map of the cluster could not be used")
            await asyncio.sleep(REFRESH_S)

    async def _refresh(self, within_s: float | None = None) -> None:
        """Read the slot map from the server that answered last, or from any other.

        All servers together get ``within_s``; without it, each gets ``ANSWER_S``.
        """
        others = [*self.nodes, *self._seeds]
        random.shuffle(others)
        refusal: Exception = BackendUnavailableError("the cluster has no servers")
        candidates = dict.fromkeys((self._asked, *others))
        answer_s = ANSWER_S if within_s is None else within_s / len(candidates)
        for address in candidates:
            try:
                async with asyncio.timeout(answer_s):
                    ranges = await self._ask(address)
                    if not self.nodes:
                        self.is_sharded = await self._have_shards(ranges, address, answer_s / 2)
            except Exception as error:  # noqa: BLE001 - after any error, try the next server
                await self._hang_up()
                refusal = self._factory.at(address).within(answer_s).translate("CLUSTER SLOTS", error)
            else:
                self._use(ranges, address)
                return
        raise refusal

    async def _ask(self, address: Address) -> list[Any]:
        if self._connection is None or self._asked != address:
            await self._hang_up()
            self._connection = await self._factory.at(address).connect()
            self._asked = address
        await self._connection.send_command("CLUSTER", "SLOTS")
        ranges: list[Any] = await self._connection.read_response()
        if not ranges:
            raise redis_errors.ConnectionError("it serves no slots (yet)")
        return ranges

    async def _have_shards(self, ranges: list[Any], asked: Address, answer_s: float) -> bool:
        """Return whether all primaries have sharded Pub/Sub; a primary that is down is ignored.

        Raises:
            BackendUnavailableError: No primary answers.
            ConfigurationError: A primary rejects the credentials.
        """
        owners = {owner for _, owner in _owners(ranges, asked.host)}
        versions = [self._version(owner, answer_s) for owner in owners]
        answers = await asyncio.gather(*versions, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in errors:
            if len(errors) == len(answers) or not isinstance(error, BackendUnavailableError):
                raise error
        return all(answer >= SHARDED_SINCE for answer in answers if isinstance(answer, int))

    async def _version(self, address: Address, answer_s: float) -> int:
        factory = self._factory.at(address).within(answer_s)
        connection = await factory.connect()
        try:
            with factory.translated("INFO"):
                async with asyncio.timeout(factory.timeout_s):
                    info = await server_info(connection, "server")
        finally:
            await close(connection)
        return int(info.get("redis_version", "0").partition(".")[0])

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)


def _owners(ranges: list[Any], asked: str) -> Iterator[tuple[int, Address]]:
    """Yield each slot and its owner from the CLUSTER SLOTS reply of the server at host ``asked``."""
    for first, last, primary, *_ in ranges:
        owner = place(primary, asked)
        for slot in range(first, last + 1):
            yield slot, owner


def place(entry: list[Any], asked: str) -> Address:
    """Return the address of a server in a CLUSTER SLOTS reply.

    An empty host means the host ``asked``. A host ``?`` (no host name configured) has its IP in the metadata.
    """
    host, port, *rest = entry
    if host == b"?" and len(rest) > 1:
        more = dict(zip(rest[1][::2], rest[1][1::2], strict=True))
        host = more.get(b"ip")
    return Address((host or b"").decode() or asked, int(port))


def redirected_to(error: redis_errors.AskError, asked: Address) -> Address | None:
    """Return the target of a redirection; None if its host is unknown (``?``) and only the map has it."""
    return None if error.host == "?" else Address(error.host or asked.host, error.port)
