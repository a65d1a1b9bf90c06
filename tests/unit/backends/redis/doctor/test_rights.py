"""The rights that we ask for are those that the code uses, and the documentation has them."""

import re
from pathlib import Path

import fastapi_websocket_stabilizer
from fastapi_websocket_stabilizer.backends.redis.doctor.rights import acl_rule, commands

FOLDER = Path(fastapi_websocket_stabilizer.__file__).parent / "backends/redis"
DOCUMENT = Path(__file__).parents[5] / "docs/operations.md"
# Not sent as such: SUBSCRIBE and its kin are put together, ASKING is packed, scripts are sent by the pipeline.
ELSEWHERE = {
    "ping",
    "info",
    "client|id",
    "client|kill",
    "eval",
    "evalsha",
    "asking",
    "role",
    "publish",
    "spublish",
} | {f"{prefix}{kind}" for prefix in ("", "s") for kind in ("subscribe", "unsubscribe")}


def used() -> set[str]:
    in_scripts = [
        re.findall(r"redis\.p?call\('(\w+)'", file.read_text()) for file in FOLDER.glob("lua/**/*.lua")
    ]
    sent = re.findall(r"\.send\(\s*\"([A-Z]+)\"", stores() + bus())
    return {name.lower() for names in in_scripts for name in names} | {name.lower() for name in sent}


def stores() -> str:
    return "".join((FOLDER / f"{name}.py").read_text() for name in ("stores", "logs", "sessions", "rosters"))


def bus() -> str:
    return (FOLDER / "cluster/bus.py").read_text()


def test_every_command_that_is_used_is_asked_for_and_no_other() -> None:
    assert used() | ELSEWHERE | {"cluster|slots", "select"} == {
        *commands("sentinel", database=1),
        *commands("cluster", is_sharded=True),
    }


def test_each_kind_asks_for_what_it_needs_only() -> None:
    server = set(commands())
    assert set(commands("sentinel")) - server == {"role"}
    assert set(commands("cluster")) - server == {"asking", "cluster|slots"}
    assert "ssubscribe" in commands("cluster", is_sharded=True)


def test_rule_allows_keys_and_channels_of_the_namespace_only() -> None:
    assert acl_rule("chat", ["get"]) == "resetkeys ~chat:* resetchannels &chat:* -@all +get"


def test_the_documented_rules_are_the_ones_that_are_tested() -> None:
    text = DOCUMENT.read_text()
    for names in (commands(), commands("sentinel"), commands("cluster", is_sharded=True)):
        assert acl_rule("fws", names) in text
