"""A primary, its replica, and three real Sentinels that monitor them."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import redis

from tests.support.process import ChildProcess, free_port
from tests.support.servers import RedisServer
from tests.support.waiting import eventually_sync

SERVICE = "main"
DOWN_AFTER_MS = 500
PASSWORD, SENTINEL_PASSWORD = "of the servers", "of-the-sentinels"


class Sentinel:
    """One Sentinel process."""

    def __init__(self, binary: Path, primary: RedisServer, folder: Path) -> None:
        self.port = free_port()
        file = folder / f"sentinel-{self.port}.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2\n"
            f'sentinel auth-pass {SERVICE} "{PASSWORD}"\n'
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        self.process = ChildProcess([binary, file, "--sentinel"])

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=SENTINEL_PASSWORD, decode_responses=True)

    def knows_all(self) -> bool:
        with self.client() as client:
            facts = client.execute_command("SENTINEL", "MASTER", SERVICE)
            found = facts if isinstance(facts, dict) else dict(zip(facts[::2], facts[1::2], strict=True))
        return (int(found["num-slaves"]), int(found["num-other-sentinels"])) == (1, 2)


class SentinelGroup:
    """Two servers and three Sentinels.

    After a kill or freeze of ``primary``, the Sentinels promote the other server within about two seconds.
    """

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self.sentinels: Sequence[Sentinel] = ()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fws-sentinel-")))
            common = ("--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0")
            first = RedisServer(self._binary, password=PASSWORD, arguments=common)
            stack.enter_context(first)
            follow = (*common, "--replicaof", "127.0.0.1", str(first.port))
            second = RedisServer(self._binary, password=PASSWORD, arguments=follow)
            stack.enter_context(second)
            self.servers = [first, second]
            eventually_sync(lambda: self._is_synced(second), what="a synced replica")
            self.sentinels = [Sentinel(self._binary, first, folder) for _ in range(3)]
            for sentinel in self.sentinels:
                stack.callback(sentinel.process.stop)
            for sentinel in self.sentinels:
                eventually_sync(sentinel.knows_all, timeout_s=20, what="Sentinels know one another")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        password = PASSWORD.replace(" ", "%20")
        return f"redis+sentinel://:{password}@{hosts}/{SERVICE}/0?sentinel_password={SENTINEL_PASSWORD}"

    @property
    def primary(self) -> RedisServer:
        """The primary according to the first running Sentinel."""
        sentinel = next(sentinel for sentinel in self.sentinels if sentinel.process.is_running)
        with sentinel.client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def is_synced(self) -> bool:
        """Whether the current replica is synchronized with the primary."""
        return self._is_synced(next(server for server in self.servers if server is not self.primary))

    def failover(self) -> None:
        """Exchange primary and replica by a failover of the Sentinels, while both are running."""
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", SERVICE)

    @staticmethod
    def _is_synced(replica: RedisServer) -> bool:
        with replica.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")
