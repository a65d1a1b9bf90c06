"""A URL that no waiting will make right raises at the start, also under ``degrade``."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError, ConfigurationError, Publisher, SyncPublisher
from tests.integration.cluster import Managers
from tests.integration.test_topologies import binary_of
from tests.support.clusters import RedisCluster
from tests.support.sentinels import SENTINEL_PASSWORD, SentinelGroup


@pytest.fixture(scope="module")
def group() -> Iterator[SentinelGroup]:
    with SentinelGroup(binary_of("redis-7.0")) as group:
        yield group


@pytest.fixture(scope="module", params=["valkey-9.1", "redis-7.0"])
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    with RedisCluster(binary_of(request.param)) as cluster:
        yield cluster


async def is_refused(url: str, namespace: str, says: str) -> None:
    managers = Managers(url, namespace)
    try:
        with pytest.raises(ConfigurationError, match=says):
            await managers.start()
    finally:
        await managers.close()


async def test_one_server_of_a_cluster_is_no_server(cluster: RedisCluster, namespace: str) -> None:
    url = cluster.url.partition(",")[0].replace("redis+cluster", "redis")
    await is_refused(url, namespace, r"redis\+cluster://")
    with SyncPublisher(url, namespace=namespace) as publisher:
        for name in "abcdef":  # some are of this server's slots
            with suppress(ConfigurationError):
                assert publisher.send_to_client(name, "hello") is False
                continue
            break
        else:
            pytest.fail("everybody was looked for at one server")


async def test_tls_to_a_server_without_it_names_the_scheme(group: SentinelGroup, namespace: str) -> None:
    publisher = Publisher(f"rediss://127.0.0.1:{group.primary.port}", namespace=namespace, timeout_s=0.5)
    with pytest.raises(
        BackendUnavailableError, match=r"no answer within 0.5 s; a server without TLS .* redis://$"
    ):
        await publisher.broadcast("hello")


async def test_a_sentinel_is_no_server(group: SentinelGroup, namespace: str) -> None:
    url = f"redis://:{SENTINEL_PASSWORD}@127.0.0.1:{group.sentinels[0].port}"
    await is_refused(url, namespace, r"redis\+sentinel://")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("/main/", "/other/"), (SENTINEL_PASSWORD, "something-else"), ("sentinel_password", "client_name")],
    ids=["service", "password", "no password"],
)
async def test_sentinels_that_all_refuse_are_believed(
    group: SentinelGroup, namespace: str, right: str, wrong: str
) -> None:
    await is_refused(group.url.replace(right, wrong), namespace, "sentinel_password in redis_url")


async def test_a_server_is_neither_sentinel_nor_cluster(group: SentinelGroup, namespace: str) -> None:
    address = f":of%20the%20servers@127.0.0.1:{group.primary.port}"
    query = "?sentinel_password=of%20the%20servers"
    await is_refused(f"redis+sentinel://{address}/main{query}", namespace, "scheme")
    await is_refused(f"redis+cluster://{address}", namespace, "scheme")
