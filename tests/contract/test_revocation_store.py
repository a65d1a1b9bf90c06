"""``revocations.RevocationStore`` on every backend."""

import pytest

from fastapi_websocket_stabilizer.backends import memory_revocations
from fastapi_websocket_stabilizer.backends.ports import Backend
from fastapi_websocket_stabilizer.backends.redis import revocations as redis_revocations
from fastapi_websocket_stabilizer.backends.revocations import Revocation
from tests.contract.support import AWKWARD_NAMES
from tests.support.waiting import eventually

LONG_MS = 60_000
LOBBY = Revocation("lobby")


async def kept(backend: Backend, client_id: str = "ann") -> set[Revocation]:
    return {revocation for revocation, _ in (await backend.revocations.read(client_id)).ages}


@pytest.mark.parametrize("name", AWKWARD_NAMES)
async def test_any_room_of_any_client_is_kept(backend: Backend, name: str) -> None:
    await backend.revocations.note(name, Revocation(name), LONG_MS)
    assert await kept(backend, name) == {Revocation(name)}
    assert await kept(backend) == set()


async def test_close_is_kept_with_its_code_reason_and_connection(backend: Backend) -> None:
    closes = {Revocation("", "", 4001, 'for "ever"'), Revocation("", "n1.1", 1000, "")}
    for close in closes:
        await backend.revocations.note("ann", close, LONG_MS)
    assert await kept(backend) == closes


async def test_age_is_that_of_the_last_time(backend: Backend) -> None:
    await backend.revocations.note("ann", LOBBY, LONG_MS)

    async def is_old() -> bool:
        [(_, age_s)] = (await backend.revocations.read("ann")).ages
        return age_s > 0.2

    await eventually(is_old)
    [(_, before_s)] = (await backend.revocations.read("ann")).ages
    await backend.revocations.note("ann", LOBBY, LONG_MS)
    [(_, after_s)] = (await backend.revocations.read("ann")).ages
    assert 0 <= after_s < before_s


async def test_what_is_older_than_its_time_is_removed_with_the_next_one(backend: Backend) -> None:
    await backend.revocations.note("ann", LOBBY, LONG_MS)
    await backend.revocations.note("ann", Revocation("chat"), LONG_MS)

    async def are_old() -> bool:
        return min(age_s for _, age_s in (await backend.revocations.read("ann")).ages) > 0.1

    await eventually(are_old)
    await backend.revocations.note("ann", Revocation("chat"), 100)
    assert await kept(backend) == {Revocation("chat")}


async def test_oldest_one_makes_room_beyond_the_limit(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_revocations, redis_revocations):
        monkeypatch.setattr(module, "REVOCATIONS_PER_CLIENT", 3)
    for room in ("a", "b", "a", "c", "d"):
        await backend.revocations.note("ann", Revocation(room), LONG_MS)
    assert await kept(backend) == {Revocation("a"), Revocation("c"), Revocation("d")}
