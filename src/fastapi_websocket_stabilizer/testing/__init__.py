"""Tools for tests of applications: managers that share a registry in memory, and real servers with faults.

The package itself imports nothing from here. No module here imports a test runner, except ``testing.fixtures`` with
its pytest fixtures, which is loaded only if a ``conftest.py`` names it. See ``docs/testing.md``.
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
    # Real servers, processes and clients
    "RedisServer",
    "shared_redis",
    "find_server",
    "NoServerError",
    "TcpProxy",
    "ChildProcess",
    "SlowReader",
    "free_port",
    # Waiting for conditions
    "eventually",
    "eventually_sync",
]
