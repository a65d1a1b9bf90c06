"""Value types: a connection's metadata is a dict that refuses changes."""

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from fastapi_websocket_stabilizer.models import Metadata
from fastapi_websocket_stabilizer.testing import MemoryCluster
from fastapi_websocket_stabilizer.wire.own_json import encode_json

CHANGES: list[Callable[[Any], object]] = [
    lambda metadata: metadata.__setitem__("status", "busy"),
    lambda metadata: metadata.__delitem__("status"),
    lambda metadata: metadata.update(status="busy"),
    lambda metadata: metadata.setdefault("name", "Ann"),
    lambda metadata: metadata.pop("status"),
    lambda metadata: metadata.popitem(),
    lambda metadata: metadata.clear(),
    lambda metadata: metadata.__ior__({"status": "busy"}),
]


@pytest.mark.parametrize("change", CHANGES)
async def test_metadata_of_a_connection_refuses_every_change_and_names_the_remedy(
    change: Callable[[Any], object],
) -> None:
    async with MemoryCluster(2) as cluster:
        here, there = cluster.managers
        await cluster.connect(here, "ann", metadata={"status": "away"})
        [connection] = here.registry.state.shards.of_client("ann")
        with pytest.raises(
            TypeError, match=r"metadata cannot be changed in place.*update_metadata.*connection.user_data"
        ):
            change(connection.metadata)
        assert [(await each.presence("ann"))[0].metadata for each in (here, there)] == [
            {"status": "away"}
        ] * 2


async def test_change_of_the_dict_that_connect_was_given_is_not_shown_by_one_replica_alone() -> None:
    given = {"status": "away"}
    async with MemoryCluster(2) as cluster:
        await cluster.connect(cluster.managers[0], "ann", metadata=given)
        given["status"] = "busy"
        shown = [(await manager.presence("ann"))[0].metadata for manager in cluster.managers]
    assert shown == [{"status": "away"}] * 2


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), dict]
)
def test_copy_of_metadata_may_be_changed(duplicate: Callable[[Metadata], dict[str, Any]]) -> None:
    mine = duplicate(Metadata(status="away"))
    mine["status"] = "busy"
    assert (type(mine), mine) == (dict, {"status": "busy"})


def test_metadata_is_sent_like_any_dict() -> None:
    metadata = Metadata(status="away")
    assert json.loads(encode_json({"who": metadata}, "message")) == json.loads(json.dumps({"who": metadata}))
