"""``revocations.RevocationStore`` on Redis. Those of a client are one sorted set, in the slot of its presence."""

from ...runtime.metrics import Counters
from ..revocations import REVOCATIONS_PER_CLIENT, Revocation, Revoked
from . import reading, scripts
from .keys import Keys
from .ports import CommandConnection
from .reading import Reader


class RedisRevocations:
    """``revocations.RevocationStore``."""

    def __init__(self, keys: Keys, pipeline: CommandConnection, reader: Reader, counters: Counters) -> None:
        self._keys, self._pipeline, self._reader, self._counters = keys, pipeline, reader, counters

    async def note(self, client_id: str, revocation: Revocation, ttl_ms: int) -> None:
        dropped: int = await self._pipeline.call(
            scripts.CLIENT_REVOKE,
            [self._keys.revoked(client_id)],
            revocation.name,
            ttl_ms,
            REVOCATIONS_PER_CLIENT,
            idempotent=True,
        )
        self._counters.revocations_dropped += dropped

    async def read(self, client_id: str) -> Revoked:
        keys = [self._keys.revoked(client_id)]
        now_us, *found = await self._pipeline.call(scripts.CLIENT_REVOKED, keys, idempotent=True)
        return Revoked(int(now_us), self._reader.each(reading.revocation, found))
