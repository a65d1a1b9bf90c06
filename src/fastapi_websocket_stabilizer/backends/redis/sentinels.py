"""Asking Redis Sentinel where the primary is. Errors are redis-py's; ``client`` translates them."""

import asyncio
from collections.abc import Callable

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from .sockets import close, open_connection
from .urls import Address, Location


class UnknownServiceError(redis_errors.RedisError):
    """All Sentinels answered, and none may or can name the primary."""


class Sentinels:
    """Connects to whichever server the Sentinels call the primary of a service."""

    def __init__(self, location: Location, timeout_s: float) -> None:
        self._location, self._timeout_s = location, timeout_s
        self._seeds = list(location.seeds)
        self._found: Address | None = None
        self.on_moved: Callable[[], None] = lambda: None
        """Told when the primary is another one than before: the former may be frozen, and its connections open."""

    async def connect(self) -> Connection:
        """Return a connection to the primary; it said itself that it is one.

        A Sentinel that was cut off from the others may still name the former primary.
        """
        address = await self._primary()
        connection = await open_connection(self._location.at(address).options, self._timeout_s)
        try:
            await connection.send_command("ROLE")
            role = (await connection.read_response())[0]
            if role != b"master":
                raise redis_errors.ConnectionError(
                    f"{address.host}:{address.port} is no primary of {self._location.service!r} any more"
                )
        except BaseException:
            await close(connection)
            raise
        former, self._found = self._found, address
        if former not in (None, address):
            self.on_moved()
        return connection

    async def _primary(self) -> Address:
        """Ask one Sentinel after the other; whoever answers is asked first from now on."""
        why, refusals = "", 0
        for seed in tuple(self._seeds):
            try:
                address = await self.ask(seed)
            except (redis_errors.RedisError, OSError, TimeoutError) as error:
                why = str(error) or f"{seed.host}:{seed.port} does not answer"
                refusals += isinstance(error, redis_errors.AuthenticationError | redis_errors.ResponseError)
            else:
                if address is not None:
                    return address
                why = f"{seed.host}:{seed.port} knows no {self._location.service!r}"
                refusals += 1
            self._seeds.remove(seed)
            self._seeds.append(seed)
        is_refused = refusals == len(self._seeds)
        kind = UnknownServiceError if is_refused else redis_errors.ConnectionError
        raise kind(f"no Sentinel names a primary: {why}")

    async def ask(self, seed: Address) -> Address | None:
        """Return what one Sentinel calls the primary; None if it does not know the service."""
        options = {**(self._location.sentinel or {}), "host": seed.host, "port": seed.port}
        # All of them must get their turn within the time of one connect, and half of it is for the primary.
        async with asyncio.timeout(self._timeout_s / (2 * len(self._location.seeds))):
            connection = await open_connection(options, self._timeout_s)
            try:
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._location.service)
                reply = await connection.read_response()
            finally:
                await close(connection)
        return Address(reply[0].decode(), int(reply[1])) if reply else None
