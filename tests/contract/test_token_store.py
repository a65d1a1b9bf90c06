"""``ports.TokenStore`` on every backend."""

import asyncio

from fastapi_websocket_stabilizer.backends.ports import Backend
from tests.contract.conftest import OpenPeer
from tests.contract.support import AWKWARD_NAMES
from tests.support.waiting import eventually

LONG_MS = 60_000


async def test_a_token_is_redeemed_once(backend: Backend) -> None:
    await backend.tokens.issue("digest", "alice", LONG_MS)
    assert await backend.tokens.redeem("digest", "alice")
    assert not await backend.tokens.redeem("digest", "alice")


async def test_a_token_is_redeemed_once_however_many_nodes_try(open_peer: OpenPeer) -> None:
    peers = [await open_peer(f"n{i}") for i in range(3)]
    await peers[0].backend.tokens.issue("digest", "alice", LONG_MS)
    tries = [peer.backend.tokens.redeem("digest", "alice") for peer in peers for _ in range(20)]
    assert sum(await asyncio.gather(*tries)) == 1


async def test_an_unknown_token_is_not_redeemed(backend: Backend) -> None:
    assert not await backend.tokens.redeem("digest", "alice")


async def test_a_token_is_not_redeemed_for_another_client(backend: Backend) -> None:
    await backend.tokens.issue("digest", "alice", LONG_MS)
    assert not await backend.tokens.redeem("digest", "bob")


async def test_a_token_that_is_revoked_is_not_redeemed(backend: Backend) -> None:
    await backend.tokens.issue("digest", "alice", LONG_MS)
    for _ in range(2):
        await backend.tokens.revoke("digest", "alice")
    assert not await backend.tokens.redeem("digest", "alice")


async def test_a_token_expires_by_itself(backend: Backend) -> None:
    await backend.tokens.issue("long", "alice", LONG_MS)
    for number in range(100):
        await backend.tokens.issue(f"short{number}", "alice", 50)
    unused = (f"short{number}" for number in range(100))

    async def has_expired() -> bool:
        return not await backend.tokens.redeem(next(unused), "alice")

    await eventually(has_expired, timeout_s=0.9)
    assert await backend.tokens.redeem("long", "alice")


async def test_a_token_issued_without_waiting_arrives(backend: Backend) -> None:
    backend.tokens.issue_now("digest", "alice", LONG_MS)
    assert await backend.tokens.redeem("digest", "alice")


async def test_all_nodes_share_the_secret_that_was_offered_first(open_peer: OpenPeer) -> None:
    first, second = await open_peer("n1"), await open_peer("n2")
    assert await first.backend.tokens.share_secret(b"one") == b"one"
    assert await second.backend.tokens.share_secret(b"two") == b"one"


async def test_names_cannot_collide_or_match_one_another(backend: Backend) -> None:
    for name in AWKWARD_NAMES:
        await backend.tokens.issue(f"digest of {name}", name, LONG_MS)
    redeemed = [await backend.tokens.redeem(f"digest of {name}", name) for name in AWKWARD_NAMES]
    assert all(redeemed)
