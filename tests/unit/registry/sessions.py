"""Connections with sessions on managers that share a hub in memory."""

from dataclasses import dataclass

from fastapi_websocket_stabilizer import Connection
from fastapi_websocket_stabilizer.registry.registration import Succession, registration_of
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster, MemoryManager


@dataclass
class Client:
    """One socket of a client, and the connection that serves it."""

    manager: MemoryManager
    socket: FakeWebSocket
    connection: Connection

    @property
    def session(self) -> Succession:
        session = registration_of(self.connection).session
        assert session is not None
        return session

    async def begin(self) -> None:
        """Get the first frame."""
        await self.manager.registry.successions.succeed(self.connection)

    async def restore(self) -> list[str]:
        """Join the rooms of the former session, none of which the client may enter by itself."""

        async def never(connection: Connection, room: str) -> bool:
            return False

        return await self.manager.registry.rooms.restore(self.connection, never)


async def connect(
    manager: MemoryManager, sid: str, former: str = "", client_id: str = "ann", *, begins: bool = True
) -> Client:
    """Connect a client of ``stabilizer.v1``."""
    socket = FakeWebSocket()
    connection = await manager.registry.connections.connect(
        client_id, socket, None, session=Succession(sid, former)
    )
    client = Client(manager, socket, connection)
    if begins:
        await client.begin()
    return client


async def kept_rooms(cluster: MemoryCluster, sid: str, client_id: str = "ann") -> set[str] | None:
    """Return the rooms that the store keeps for a session; None if it has none."""
    held = cluster.managers[0].link.hub.sessions.get(client_id, {}).get(sid)
    return None if held is None else set(held.rooms)
