"""``ports.RosterStore`` on Redis. The members of a room and their version are one hash, so one command reads both."""

from collections.abc import Callable

from ...names import node_of
from ...wire.envelopes import Envelope, pack
from ..ports import IndexEntry
from ..rosters import RosterRead, Shown
from . import reading, scripts
from .command import Argument
from .guard import Signer
from .keys import Keys
from .ports import CommandConnection
from .reading import Reader
from .scripts import Script
from .stores import IndexLine


class RedisRosters:
    """``rosters.RosterStore``."""

    def __init__(
        self,
        keys: Keys,
        pipeline: CommandConnection,
        reader: Reader,
        publish_command: Callable[[], str],
        signer: Signer | None,
    ) -> None:
        self._keys, self._pipeline, self._reader = keys, pipeline, reader
        self._publish_command, self._signer = publish_command, signer

    async def enter(self, shown: Shown, metadata: bytes, notice: Envelope, *, replaces: str = "") -> int:
        index = self._keys.memberships(node_of(shown.connection_id))
        place = IndexEntry(shown.connection_id, shown.client_id, shown.room, shown.stay, shown.visit)
        field, value = f"{place.connection_id} {place.room}", f"{place.numbered} {place.client_id}"
        line = IndexLine(self._pipeline, index, field, value)
        if not self._pipeline.is_ordered:
            await line.is_written()
        version = await self._call(scripts.PRESENCE_ENTER, shown, notice, metadata, replaces)
        await line.is_written()
        return version

    async def leave(self, shown: Shown, notice: Envelope) -> int:
        return await self._call(scripts.PRESENCE_LEAVE, shown, notice)

    async def _call(self, script: Script, shown: Shown, notice: Envelope, *arguments: Argument) -> int:
        channel = self._keys.room(shown.room)
        data = pack(notice) if self._signer is None else self._signer.pack(notice, channel)
        version: int = await self._pipeline.call(
            script,
            [self._keys.shown(shown.room)],
            self._publish_command(),
            channel,
            data,
            shown.client_id,
            shown.connection_id,
            shown.stay,
            *arguments,
            idempotent=True,
        )
        return version

    async def read(self, room: str) -> RosterRead:
        call = self._pipeline.send("HGETALL", self._keys.shown(room), idempotent=True)
        fields: list[bytes] = await self._reader.reply(call, [])
        version, others = 0, list[bytes]()
        for name, value in zip(fields[::2], fields[1::2], strict=True):
            if name:
                others += (name, value)
            else:
                version = int(value) if value.isdigit() else 0
        return RosterRead(version, dict(self._reader.each(reading.shown, others)))
