"""``workers.WorkerStore`` on Redis. A group is one hash: number -> ``<node_id> <what it has published>``."""

import asyncio
from collections.abc import Collection

from ...names import NodeId
from ..workers import KEPT_S, MAX_WORKERS
from . import scripts
from .connection import WrongTypeError
from .keys import Keys
from .ports import CommandConnection
from .reading import Reader


class RedisWorkers:
    """``workers.WorkerStore``."""

    def __init__(self, keys: Keys, pipeline: CommandConnection, reader: Reader) -> None:
        self._keys, self._pipeline, self._reader = keys, pipeline, reader

    async def take(self, group: str, node: NodeId, dead: Collection[NodeId] = ()) -> tuple[int, bytes]:
        keys = [self._keys.workers(group), self._keys.leases]
        call = self._pipeline.call(
            scripts.WORKER_TAKE, keys, node, MAX_WORKERS, 1000 * KEPT_S, *dead, idempotent=True
        )
        number, body = await call
        return int(number), bytes(body)

    async def publish(self, group: str, number: int, node: NodeId, body: bytes) -> None:
        key = self._keys.workers(group)
        self._pipeline.separate(key)
        written = self._pipeline.set_field(key, str(number), f"{node} {body.decode()}")
        await self._pipeline.send("PEXPIRE", key, 1000 * KEPT_S, idempotent=True)
        try:
            await asyncio.shield(written)  # others may share it
        except WrongTypeError:  # a foreign key
            self._pipeline.separate(key)
            await self._pipeline.send("UNLINK", key, idempotent=True)

    async def give_back(self, group: str, number: int) -> None:
        key = self._keys.workers(group)
        self._pipeline.separate(key)
        await self._pipeline.send("HDEL", key, number, idempotent=True)

    async def read(self, group: str) -> dict[int, tuple[NodeId, bytes]]:
        call = self._pipeline.send("HGETALL", self._keys.workers(group), idempotent=True)
        flat: list[bytes] = await self._reader.reply(call, [])
        found = {}
        for number, value in zip(flat[::2], flat[1::2], strict=False):
            node, _, body = value.partition(b" ")
            if number.isdigit() and len(number) <= 3 and int(number) < MAX_WORKERS:
                found[int(number)] = NodeId(node.decode(errors="replace")), body
        return found
