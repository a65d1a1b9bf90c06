"""Which channel a canary gets, and that looking for one always ends."""

import asyncio

from fastapi_websocket_stabilizer.backends.redis.cluster.bus import ClusterSubscriber
from fastapi_websocket_stabilizer.backends.redis.cluster.slots import SlotTable
from fastapi_websocket_stabilizer.backends.redis.connection import ConnectionFactory
from fastapi_websocket_stabilizer.backends.redis.keys import Keys, slot_of
from fastapi_websocket_stabilizer.backends.redis.pipeline import Pipeline, no_earlier_sends
from fastapi_websocket_stabilizer.backends.redis.ports import Listener
from fastapi_websocket_stabilizer.backends.redis.probes import ATTEMPTS, Canaries
from fastapi_websocket_stabilizer.backends.redis.subscriber import Subscriber
from fastapi_websocket_stabilizer.backends.redis.urls import Address
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from tests.support.watchers import ignore

HERE = Address("127.0.0.1", 7000)
ROOM = "test:{lobby}:room"
FOUND = "test:{found}:canary"
COUNTERS = Counters()


class Silent(ConnectionFactory):
    """A server that never answers."""

    def __init__(self) -> None:
        super().__init__(f"redis://{HERE.host}:{HERE.port}", 1.0)

    def at(self, address: Address) -> ConnectionFactory:
        return self

    async def connect(self) -> object:  # type: ignore[override]  # it never returns
        return await asyncio.get_running_loop().create_future()


NOBODY = Listener(ignore, ignore, ignore, ignore)


def commands() -> Pipeline:
    return Pipeline(Silent(), COUNTERS, "test", no_earlier_sends)


def canaries() -> Canaries:
    return Canaries(Keys("test"), commands(), lambda: "PUBLISH", COUNTERS, ignore)


def subscriber() -> Subscriber:
    return Subscriber(Silent(), COUNTERS, NOBODY)


def test_canary_gets_a_channel_that_is_heard_there() -> None:
    channel = canaries().watch(subscriber(), lambda name: slot_of(name) % 3 == 0)
    assert channel is not None
    assert slot_of(channel) % 3 == 0


def test_search_for_a_channel_ends_where_none_is_heard() -> None:
    tried: list[str] = []

    def is_heard(name: str) -> bool:
        tried.append(name)
        return False

    assert canaries().watch(subscriber(), is_heard) is None
    assert len(tried) == ATTEMPTS


# The time up to which everything was received


async def test_new_connection_moves_no_time_of_another_one() -> None:
    probes, one, other = canaries(), subscriber(), subscriber()
    for each in (one, other):
        probes.watch(each)
    heard_to_s = probes.heard_to_s
    probes.restart()
    assert probes.heard_to_s == heard_to_s


async def test_time_of_a_connection_that_is_left_counts_until_its_channels_were_compared() -> None:
    probes, former, new = canaries(), subscriber(), subscriber()
    probes.watch(former)
    heard_to_s = probes.heard_to_s
    probes.forget(former)
    probes.watch(new)
    for _ in range(2):
        assert probes.heard_to_s == heard_to_s
        probes.beat()
    assert probes.heard_to_s > heard_to_s


class Reluctant(Canaries):
    """Finds a channel at the third attempt."""

    def __init__(self) -> None:
        super().__init__(Keys("test"), commands(), lambda: "PUBLISH", COUNTERS, ignore)
        self.answers: list[str | None] = [None, None, FOUND]

    def watch(self, *_: object) -> str | None:
        return self.answers.pop(0)


async def test_primary_without_a_canary_is_tried_again_at_each_change_of_the_map() -> None:
    table, reluctant = SlotTable(Silent(), [HERE]), Reluctant()
    bus = ClusterSubscriber(table, Silent(), COUNTERS, NOBODY, reluctant)
    table.learn(slot_of(ROOM), HERE)
    bus.want(ROOM)  # opens a connection
    table.learn(slot_of("another"), HERE)
    assert reluctant.answers == [FOUND]
    table.learn(slot_of(FOUND), HERE)
    table.learn(slot_of("one more"), HERE)  # there is a canary already
    assert reluctant.answers == []
    await bus.stop()
