"""The clock of Redis is stepped back by an hour: what is counted by it must not last an hour longer."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fastapi_websocket_stabilizer import TokenExpiredError
from fastapi_websocket_stabilizer.wire import tokens
from tests.integration.cluster import LEASE_S, Managers, Replica, counter, first_row, keys_with, knows
from tests.integration.test_redis_away import now_s
from tests.support.shifted_clock import SteppedServer, stepped_server
from tests.support.waiting import eventually

HOUR_S = 3600


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedServer]:
    with stepped_server(first_row(), tmp_path) as server:
        yield server


@pytest.fixture
async def managers(stepped: SteppedServer, namespace: str) -> AsyncIterator[Managers]:
    managers = Managers(stepped.url, namespace)
    yield managers
    await managers.close()


async def test_clients_of_a_replica_that_died_around_the_step_vanish_within_two_leases(
    managers: Managers, stepped: SteppedServer
) -> None:
    near = await managers.start()
    long_lease = await managers.start(lease_ttl_s=60.0, renew_interval_s=20.0)
    victim = Replica(stepped.url, managers.namespace, "victim")
    try:
        await eventually(victim.is_ready, 20)
        async with victim.client("alice") as alice:
            await alice.greeted()
            await knows(near, "alice")
            victim.process.kill()
            stepped.step(-HOUR_S)
            stepped_at_s = now_s()
            await knows(near, timeout_s=20)
            assert now_s() - stepped_at_s < 3 * LEASE_S + 5, "and what a busy machine may be late"
        await eventually(lambda: counter(near, "nodes_swept") + counter(long_lease, "nodes_swept") == 1, 20)
        assert keys_with(stepped.url, "alice") == []
        assert counter(near, "leases_shortened") + counter(long_lease, "leases_shortened") >= 1
        assert counter(long_lease, "leases_refused") == 0, "its lease is longer, and it keeps it"
    finally:
        victim.stop()


async def test_a_token_is_not_redeemed_long_after_its_lifetime(
    managers: Managers, stepped: SteppedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "CLOCKS_DIFFER", timedelta(seconds=1))  # instead of a minute
    node = await managers.start(reconnect_token_ttl=timedelta(seconds=1))
    early, late = await node.issue_reconnect_token("alice"), await node.issue_reconnect_token("alice")
    stepped.step(-HOUR_S)
    issued_at = datetime.now(UTC)
    assert await node.validate_reconnect_token(early) == "alice"
    await eventually(lambda: datetime.now(UTC) - issued_at > timedelta(seconds=2.1))
    with stepped.client() as client:
        assert len(list(client.scan_iter("*:token:*"))) == 1, "its record has not expired there"
    with pytest.raises(TokenExpiredError):
        await node.validate_reconnect_token(late)
