"""Redis Cluster on this machine: primaries, replicas, and the operations of an administrator."""

import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import redis
from redis.crc import key_slot

from tests.support.servers import RedisServer
from tests.support.waiting import eventually_sync

SLOTS = 16384
NODE_TIMEOUT_MS = 1000
_BUS = 10_000
"""Distance from the port of a server to the port of the cluster's own bus."""
_KEYS_PER_STEP = 100


class NobodyAnswersError(AssertionError):
    """No server of the cluster answers, or knows the owner of a slot."""


class RedisCluster:
    """``primaries`` servers that share the slots evenly, each with ``replicas`` replicas, which are last in the list.

    With ``--cluster-require-full-coverage no``, the other primaries continue to serve if one is down.
    """

    def __init__(
        self, binary: Path, *, primaries: int = 3, replicas: int = 0, arguments: Sequence[str] = ()
    ) -> None:
        self._size, self._binary = primaries, binary
        own = self._own = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"),
            *("--cluster-require-full-coverage", "no", *arguments),
        ]
        self.servers = [RedisServer(binary, arguments=own) for _ in range(primaries * (1 + replicas))]
        self.ids: dict[int, str] = {}
        """Node id in the cluster, by port."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                server.port = _free_port_with_bus()
                stack.enter_context(server)
            self._form()
            self._stack = stack.pop_all()
        return self

    def add(self) -> RedisServer:
        """Add a primary without slots, and return it."""
        server = RedisServer(self._binary, arguments=self._own)
        server.port = _free_port_with_bus()
        self._stack.enter_context(server)
        self.ids[server.port] = str(self.ask(server, "CLUSTER MYID"))
        self.ask(server, "CLUSTER MEET", "127.0.0.1", self.servers[0].port)
        self.servers.append(server)
        eventually_sync(lambda: all(map(self._knows_all, self.servers)), timeout_s=20, what="one cluster")
        eventually_sync(lambda: self._is_whole(server), timeout_s=20, what="it serves")
        return server

    def remove(self, server: RedisServer) -> None:
        """Remove and stop a primary without slots."""
        self.servers.remove(server)
        for other in self.servers:
            self.ask(other, "CLUSTER FORGET", self.ids[server.port])
        server.stop()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[: self._size])
        return f"redis+cluster://{hosts}"

    def ask(self, server: RedisServer, *command: str | int) -> object:
        with server.client() as client:
            return client.execute_command(*command)

    def _form(self) -> None:
        primaries, replicas = self.servers[: self._size], self.servers[self._size :]
        bounds = [SLOTS * number // self._size for number in range(self._size + 1)]
        for number, server in enumerate(self.servers):
            self.ids[server.port] = str(self.ask(server, "CLUSTER MYID"))
            # Equal epochs would be resolved as conflicts one by one, which takes seconds.
            self.ask(server, "CLUSTER SET-CONFIG-EPOCH", number + 1)
        for number, server in enumerate(primaries):
            self.ask(server, "CLUSTER ADDSLOTS", *range(bounds[number], bounds[number + 1]))
        for server in self.servers[1:]:
            self.ask(self.servers[0], "CLUSTER MEET", "127.0.0.1", server.port)
        eventually_sync(lambda: all(map(self._knows_all, self.servers)), timeout_s=20, what="one cluster")
        for number, replica in enumerate(replicas):
            self.ask(replica, "CLUSTER REPLICATE", self.ids[primaries[number % self._size].port])
        # A replica is promoted only after its first synchronization.
        eventually_sync(lambda: all(map(self._is_synced, replicas)), timeout_s=20, what="copies")
        eventually_sync(lambda: all(map(self._is_whole, self.servers)), timeout_s=20, what="all slots served")

    def _knows_all(self, server: RedisServer) -> bool:
        links = [line.split() for line in self._nodes(server)]
        return len(links) == len(self.servers) and all("handshake" not in link[2] for link in links)

    def _nodes(self, server: RedisServer) -> list[str]:
        with server.client() as client:
            connection = client.connection_pool.get_connection()
            connection.send_command("CLUSTER NODES")
            lines = str(connection.read_response()).splitlines()
            client.connection_pool.release(connection)
        return lines

    def _is_whole(self, server: RedisServer) -> bool:
        return self._info(server)["cluster_state"] == "ok"

    def _info(self, server: RedisServer) -> dict[str, str]:
        found = self.ask(server, "CLUSTER INFO")
        assert isinstance(found, dict)
        return found

    def _is_synced(self, replica: RedisServer) -> bool:
        with replica.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def replica_of(self, primary: RedisServer) -> RedisServer | None:
        """Return a running, synchronized replica of a primary, or None."""
        for row in self._nodes(primary):
            _, address, _, of, *_ = row.split()
            port = int(address.partition("@")[0].rpartition(":")[2])
            found = next(server for server in self.servers if server.port == port)
            if of == self.ids[primary.port] and found.process.is_running and self._is_synced(found):
                return found
        return None

    def owner(self, slot: int) -> RedisServer:
        """Return the owner of a slot according to the first server that answers.

        Raises:
            NobodyAnswersError: No server answers, or knows an owner.
        """
        for server in self.servers:
            with suppress(redis.RedisError):
                return next(s for s in self.servers if s.port == self._owner_port(server, slot))
        raise NobodyAnswersError("no server of the cluster answers, or knows an owner")

    def _owner_port(self, server: RedisServer, slot: int) -> int:
        for row in self._nodes(server):
            _, address, flags, *rest = row.split()
            for part in rest[5:]:
                first, _, last = part.partition("-")
                if "fail" not in flags and first.isdigit() and int(first) <= slot <= int(last or first):
                    return int(address.partition("@")[0].rpartition(":")[2])
        raise redis.RedisError(f"slot {slot} has no owner")

    def owner_of(self, key: str) -> RedisServer:
        return self.owner(key_slot(key.encode()))

    def move(self, slot: int, target: RedisServer) -> None:
        """Move a slot with its keys to another primary, step by step as redis-cli does."""
        source = self.owner(slot)
        if source is target:
            return
        self.begin_move(slot, source, target)
        self.finish_move(slot, source, target)

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move the keys of a slot. The slot still belongs to ``source``, which redirects clients with ASK."""
        self.ask(target, "CLUSTER SETSLOT", slot, "IMPORTING", self.ids[source.port])
        self.ask(source, "CLUSTER SETSLOT", slot, "MIGRATING", self.ids[target.port])
        while keys := self._keys_in(source, slot):
            self.ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 2000, "KEYS", *keys)

    def finish_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Assign the slot to ``target``."""
        for server in (target, source, *self.servers):
            with suppress(redis.RedisError):  # replicas refuse the command
                self.ask(server, "CLUSTER SETSLOT", slot, "NODE", self.ids[target.port])
        self._agree_on(slot, target)

    def migrate(self, slot: int, target: RedisServer) -> None:
        """Move a slot in one step with the servers' own migration (Valkey 9)."""
        span = ("SLOTSRANGE", slot, slot, "NODE", self.ids[target.port])
        self.ask(self.owner(slot), "CLUSTER", "MIGRATESLOTS", *span)
        self._agree_on(slot, target)

    def _agree_on(self, slot: int, owner: RedisServer) -> None:
        """Wait until all servers agree on the owner. Otherwise the next move may undo this one and drop its keys."""

        def do_all_agree() -> bool:
            owners = {self._owner_port(server, slot) for server in self.servers}
            epochs = {self._info(server)["cluster_current_epoch"] for server in self.servers}
            return owners == {owner.port} and len(epochs) == 1

        eventually_sync(do_all_agree, what=f"slot {slot} belongs to {owner.port}")

    def _keys_in(self, server: RedisServer, slot: int) -> list[str]:
        keys = self.ask(server, "CLUSTER GETKEYSINSLOT", slot, _KEYS_PER_STEP)
        assert isinstance(keys, list)
        return keys


def _free_port_with_bus() -> int:
    while True:
        port = random.randint(20_000, 32_000)  # below the ephemeral range
        if _is_free(port) and _is_free(port + _BUS):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
