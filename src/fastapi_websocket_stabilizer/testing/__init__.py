"""For tests of applications: managers that share a registry in this process, and real servers that misbehave.

Nothing here is imported by the package itself, and nothing here imports a test runner; the pytest fixtures are
in ``testing.fixtures``, which is loaded only when a ``conftest.py`` names it. See ``docs/testing.md``.
"""

from .cluster import MemoryCluster, MemoryManager
from .process import ChildProcess, free_port
from .proxy import TcpProxy
from .servers import NoServerError, RedisServer, find_server, shared_redis
from .slow import SlowReader
from .sockets import FakeWebSocket
from .waiting import eventually, eventually_sync

__all__ = [
    # In this process
    "MemoryCluster",
    "MemoryManager",
    "FakeWebSocket",
    # Real ones
    "RedisServer",
    "shared_redis",
    "find_server",
    "NoServerError",
    "TcpProxy",
    "ChildProcess",
    "SlowReader",
    "free_port",
    # Waiting for facts
    "eventually",
    "eventually_sync",
]
