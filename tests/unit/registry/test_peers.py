"""Replicas of one registry that are set up differently find out, and say so once."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.peers import MAX_TOLD
from fastapi_websocket_stabilizer.registry.state import Served
from fastapi_websocket_stabilizer.testing import MemoryCluster

KEY = "k" * 32


@pytest.fixture
async def cluster() -> AsyncIterator[MemoryCluster]:
    async with MemoryCluster(3, WebSocketConfig(log_level="WARNING")) as cluster:
        yield cluster


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("replicas of one registry differ")]


@pytest.mark.parametrize(
    ("name", "value", "shown", "usual"),
    [
        ("max_connections_per_client", 5, "max_connections_per_client is 5", "1"),
        ("on_client_overflow", "reject", "on_client_overflow is 'reject'", "'replace'"),
        ("lease_ttl_s", 60.0, "lease_ttl_s is 60.0", "10.0"),
        ("envelope_keys", (KEY,), "signed is True", "False"),
    ],
)
async def test_setting_that_differs_is_logged_once_by_each_node_with_both_names_and_values(
    cluster: MemoryCluster, name: str, value: Any, shown: str, usual: str, caplog: pytest.LogCaptureFixture
) -> None:
    setattr(cluster.managers[0].config, name, value)
    for _ in range(2):
        await cluster.beat()
    first, *others = sorted(told(caplog), key=lambda line: "('manager-0')" not in line)
    assert f"{shown} on this node ('manager-0') and {usual} on node 'manager-" in first
    assert len(others) == 2
    assert all(
        f"is {usual} on this node" in line and "on node 'manager-0'; all replicas" in line for line in others
    )
    assert KEY not in caplog.text


async def test_nodes_with_the_same_settings_are_silent(
    cluster: MemoryCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.managers[0].config.max_connections = 7
    await cluster.beat()
    assert told(caplog) == []


async def test_another_application_in_the_same_registry_is_logged(
    cluster: MemoryCluster, caplog: pytest.LogCaptureFixture
) -> None:
    for manager, application in zip(cluster.managers, ("Orders", "Chat", ""), strict=True):
        manager.registry.state.served = Served(application=application)
    await cluster.beat()
    assert len(told(caplog)) == 2
    assert (
        "application is 'Orders' on this node ('manager-0') and 'Chat' on node 'manager-1'" in told(caplog)[0]
    )
    assert told(caplog)[0].endswith("give each application a namespace of its own")


async def test_node_that_comes_later_is_compared(
    cluster: MemoryCluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.beat()
    for manager in cluster.managers:
        manager.config.on_client_overflow = "reject"
    await cluster.add()
    await cluster.beat()
    assert sum("on node 'manager-3'" in line for line in told(caplog)) == 3


@pytest.mark.parametrize(
    "info", [b"", b"\xff", b"[]", b'{"settings": 7}', b'{"settings": {"lease_ttl_s": "x"}}']
)
async def test_what_somebody_else_wrote_ends_nothing(
    cluster: MemoryCluster, info: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hub, stranger = cluster.managers[0].link.hub, NodeId("stranger")
    hub.infos[stranger], hub.leases[stranger] = info, hub.now_ms() + 60_000
    await cluster.beat()
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


async def test_differences_are_bounded(cluster: MemoryCluster, caplog: pytest.LogCaptureFixture) -> None:
    hub = cluster.managers[0].link.hub
    for number in range(MAX_TOLD + 20):
        stranger = NodeId(f"stranger-{number}")
        hub.infos[stranger] = b'{"name": "%s", "settings": {"lease_ttl_s": %d}}' % (b"x" * 1000, number + 100)
        hub.leases[stranger] = hub.now_ms() + 60_000
    await cluster.beat()
    assert len(told(caplog)) == MAX_TOLD * len(cluster.managers)
    assert max(map(len, told(caplog))) < 500
