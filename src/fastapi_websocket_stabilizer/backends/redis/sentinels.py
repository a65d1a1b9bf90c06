"""Find the primary through Redis Sentinel. Errors are redis-py's; ``connection`` translates them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from .sockets import close, open_connection
from .urls import Address, Location

log: logging.Logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two queries for the current primary."""


class UnknownServiceError(redis_errors.RedisError):
    """All Sentinels answered, and each either refused the query or does not know the service."""


class Sentinels:
    """Connects to the server that most Sentinels report as the primary of a service."""

    def __init__(self, location: Location, timeout_s: float) -> None:
        self._location, self._timeout_s = location, timeout_s
        self._seeds = list(location.seeds)
        self._found: Address | None = None
        self._on_moved: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def listen(self, on_moved: Callable[[], None]) -> None:
        """Call ``on_moved`` after each change of the primary.

        The former primary may be frozen or partitioned, so its connections may stay open.
        """
        self._on_moved.append(on_moved)

    async def connect(self) -> Connection:
        """Return a connection to the primary, after its own ROLE has confirmed that it is one."""
        address = await self._primary()
        connection = await open_connection(self._location.at(address).options, self._timeout_s)
        try:
            await connection.send_command("ROLE")
            role = (await connection.read_response())[0]
            if role != b"master":
                raise redis_errors.ConnectionError(
                    f"{address.host}:{address.port} is no longer the primary of {self._location.service!r}"
                )
        except BaseException:
            await close(connection)
            raise
        self._use(address)
        return connection

    def _use(self, address: Address) -> None:
        former, self._found = self._found, address
        if former not in (None, address):
            for on_moved in self._on_moved:
                on_moved()

    def watch(self) -> None:
        """Query the Sentinels until ``stop()``, since a silent primary would not report its own replacement."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="redis-sentinels")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._use(await self._primary())
            except redis_errors.RedisError:
                pass  # no answer: the primary may still be the same
            except Exception:  # the supervisor: without it, a promotion would go unnoticed
                log.exception("the Sentinels' answer could not be used")

    async def _primary(self) -> Address:
        """Return the server that a majority of the Sentinels reports; without one, the most frequent answer.

        A single answer is not enough: a partitioned Sentinel may still report the former primary.
        """
        named, why, refusals = Counter[Address](), "", 0
        for seed in tuple(self._seeds):
            address = None
            try:
                address = await self.ask(seed)
            except (redis_errors.RedisError, OSError, TimeoutError) as error:
                why = str(error) or f"{seed.host}:{seed.port} does not answer"
                refusals += isinstance(error, redis_errors.AuthenticationError | redis_errors.ResponseError)
            else:
                if address is None:
                    why = f"{seed.host}:{seed.port} knows no {self._location.service!r}"
                    refusals += 1
            if address is None:
                self._seeds.remove(seed)  # query it last from now on
                self._seeds.append(seed)
            else:
                named[address] += 1
                if named[address] > len(self._seeds) / 2:
                    break
        if named:
            return named.most_common(1)[0][0]
        kind = UnknownServiceError if refusals == len(self._seeds) else redis_errors.ConnectionError
        raise kind(f"no Sentinel names a primary: {why}")

    async def ask(self, seed: Address) -> Address | None:
        """Return the primary that one Sentinel reports; None if it does not know the service."""
        options = {**(self._location.sentinel or {}), "host": seed.host, "port": seed.port}
        # Query all Sentinels within half the time of one connect; the other half is for the primary.
        async with asyncio.timeout(self._timeout_s / (2 * len(self._seeds))):
            connection = await open_connection(options, self._timeout_s)
            try:
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._location.service)
                reply = await connection.read_response()
            finally:
                await close(connection)
        return Address(reply[0].decode(), int(reply[1])) if reply else None
