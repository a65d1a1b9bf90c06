"""Collects the facts about a registry's Redis for ``diagnosis``. Leaves no keys behind."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from redis import exceptions as redis_errors

from ....exceptions import ConfigurationError, WebSocketStabilizerError
from ....names import NodeId
from ....retention import NOTHING
from ....runtime.loops import running_loop
from ....runtime.metrics import Counters
from ....wire.channels import box_of
from ...log_ports import LogKind, LogName
from ...policies import Policy, stored_by
from ..cluster.slots import SHARDED_SINCE, place
from ..connection import ConnectionFactory, NotPermittedError
from ..keys import Keys
from ..pipeline import no_earlier_sends
from ..reading import Reader
from ..sockets import close
from ..stores import RedisNodes
from ..topology import topology_at
from ..urls import Address, Location, parse
from . import rights
from .diagnosis import (
    Facts,
    Finding,
    Level,
    diagnose,
    diagnose_history,
    diagnose_replicas,
    diagnose_slots,
)

PINGS = 20
SETTINGS = "client-output-buffer-limit", "timeout", "tcp-keepalive"

Ask = Callable[..., Awaitable[Any]]


async def examine(url: str, namespace: str = "fws", timeout_s: float = 3.0) -> list[Finding]:
    """Return the findings about the Redis at ``url``; a server that cannot be reached is a finding.

    Raises:
        ConfigurationError: The URL cannot work.
    """
    location = parse(url)
    text, infos = await _registry(location, namespace, timeout_s)
    checkup = _Checkup(location, namespace, timeout_s, _readable(text))
    match location.kind:
        case "cluster":
            findings = await checkup.cluster()
        case "sentinel":
            findings = await checkup.service()
        case _:
            findings, _ = await checkup.server(checkup.factory, "")
    stores = text or any(stored_by(info)[1] != NOTHING for info in infos)
    return findings + ([diagnose_history(text, infos)] if stores else [])


async def _registry(location: Location, namespace: str, timeout_s: float) -> tuple[str, list[bytes | None]]:
    """Return the policy, and the descriptions of the live nodes; nothing if Redis cannot be asked."""
    topology, keys = topology_at(location, timeout_s, Counters()), Keys(namespace)
    pipeline = topology.commands("doctor", no_earlier_sends)
    try:
        await pipeline.start()
        text: bytes | None = await pipeline.send("GET", keys.policy, idempotent=True)
        store = RedisNodes(keys, pipeline, pipeline, Reader(Counters()))
        infos = await store.infos(sorted(await store.live()))
    except WebSocketStabilizerError:
        return "", []  # the findings about servers say why
    finally:
        await pipeline.stop()
        await topology.stop()
    return (text or b"").decode(errors="replace"), [info for info, _ in infos]


def _readable(policy: str) -> Policy:
    try:
        return Policy.read(policy)
    except ConfigurationError:  # a finding of its own
        return Policy()


class _Checkup:
    """An examination of every server behind a URL. Replicas count: each may be promoted, and has its own ACL."""

    def __init__(self, location: Location, namespace: str, timeout_s: float, policy: Policy) -> None:
        self._location, self._namespace, self._policy = location, namespace, policy
        self.factory = ConnectionFactory(location, timeout_s)

    async def cluster(self) -> list[Finding]:
        ranges, asked, findings = await self._slots()
        findings += diagnose_slots(ranges) if ranges else []
        found = {place(entry, asked): number > 0 for row in ranges for number, entry in enumerate(row[2:])}
        for address, is_replica in sorted(found.items()):
            factory = self.factory.at(address)
            findings += (await self.server(factory, _name(address), is_replica=is_replica))[0]
        return findings

    async def service(self) -> list[Finding]:
        findings = [await self._sentinel(seed) for seed in self._location.seeds]
        found, info = await self.server(self.factory, "")
        replicas = _replicas(info)
        findings += found + ([diagnose_replicas(len(replicas))] if info else [])
        for address in replicas:
            findings += (await self.server(self.factory.at(address), _name(address), is_replica=True))[0]
        return findings

    async def server(
        self, factory: ConnectionFactory, name: str, *, is_replica: bool = False
    ) -> tuple[list[Finding], dict[str, str]]:
        """Return the findings about one server, and its INFO."""
        try:
            async with _asking(factory) as ask:
                info = _lines(await ask("INFO"))
                settings, difference_s = await _settings(ask), await _clock_difference(ask)
                round_trips = [await _round_trip(ask) for _ in range(PINGS)]
            names = self._rights(is_sharded=int(info["redis_version"].partition(".")[0]) >= SHARDED_SINCE)
            refused = await _refused(factory, Keys(self._namespace), names)
        except (WebSocketStabilizerError, redis_errors.ResponseError) as error:
            return [self._unreachable(name, factory.translate("INFO", error))], {}
        rule = rights.acl_rule(self._namespace, names)
        facts = Facts(name, info, settings, difference_s, round_trips, refused, rule)
        facts = replace(facts, kind=self._location.kind, is_replica=is_replica, policy=self._policy)
        return diagnose(facts), info

    def _rights(self, *, is_sharded: bool) -> list[str]:
        database = int(self._location.options.get("db") or 0)
        return rights.commands(self._location.kind, is_sharded=is_sharded, database=database)

    async def _slots(self) -> tuple[list[Any], str, list[Finding]]:
        """Return the slot map of the first server that has one, its host, and the findings about earlier ones."""
        refusals: list[Finding] = []
        for seed in self._location.seeds:
            factory = self.factory.at(seed)
            try:
                async with _asking(factory) as ask:
                    return [*await ask("CLUSTER", "SLOTS")], seed.host, refusals
            except (WebSocketStabilizerError, redis_errors.ResponseError) as error:
                refusals.append(self._unreachable(_name(seed), factory.translate("CLUSTER SLOTS", error)))
        return [], "", refusals

    async def _sentinel(self, seed: Address) -> Finding:
        assert self.factory.sentinels is not None
        try:
            primary = await self.factory.sentinels.ask(seed)
        except (redis_errors.RedisError, OSError, TimeoutError) as error:
            return self._unreachable(_name(seed), self.factory.translate("SENTINEL", error), "sentinel")
        if primary is None:
            found, advice = f"knows no {self._location.service!r}", "check the service in the URL"
            return Finding("sentinel", _name(seed), found, advice, Level.CHANGE)
        return Finding("sentinel", _name(seed), f"names {_name(primary)}")

    def _unreachable(self, server: str, error: Exception, check: str = "connection") -> Finding:
        advice = "this URL must work from here"
        if check == "connection" and isinstance(error, NotPermittedError):
            advice = f"ACL SETUSER <user> {rights.acl_rule(self._namespace, self._rights(is_sharded=True))}"
        return Finding(check, server, str(error), advice, Level.CHANGE)


def _name(address: Address) -> str:
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


def _replicas(info: Mapping[str, str]) -> list[Address]:
    """Return the addresses of the replicas in a primary's INFO."""
    lines = (value for name, value in info.items() if re.fullmatch(r"slave\d+", name))
    fields = (dict(pair.split("=", 1) for pair in line.split(",")) for line in lines)
    return [Address(each["ip"], int(each["port"])) for each in fields]


@asynccontextmanager
async def _asking(factory: ConnectionFactory) -> AsyncIterator[Ask]:
    """Yield a function that sends a command and returns its reply. An error reply is redis-py's ResponseError."""
    connection = await factory.connect()

    async def ask(*words: str | int) -> Any:
        try:
            async with asyncio.timeout(factory.timeout_s):
                await connection.send_command(*words)
                return await connection.read_response()
        except redis_errors.ResponseError:
            raise
        except Exception as error:
            raise factory.translate(str(words[0]), error) from error

    try:
        yield ask
    finally:
        await close(connection)


def _lines(reply: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)


async def _settings(ask: Ask) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for name in SETTINGS:
        try:
            pair = [word.decode() for word in await ask("CONFIG", "GET", name)]
        except redis_errors.ResponseError:  # a managed Redis, or a user without the permission
            return None
        found.update(zip(pair[::2], pair[1::2], strict=True))
    return found


async def _clock_difference(ask: Ask) -> float:
    before = datetime.now(UTC).timestamp()
    try:
        seconds, microseconds = map(int, await ask("TIME"))
    except redis_errors.ResponseError:
        return 0.0  # no permission, which is a finding of its own
    return seconds + microseconds / 1e6 - (before + datetime.now(UTC).timestamp()) / 2


async def _round_trip(ask: Ask) -> float:
    began_s = running_loop().time()
    await ask("PING")
    return running_loop().time() - began_s


# Permissions are found by trial, since only an administrator may read them. Redis checks them before it sends MOVED.

Trial = tuple[str, tuple[str | int, ...]]


async def _refused(factory: ConnectionFactory, keys: Keys, names: list[str]) -> list[str]:
    scratch, node = keys.client(f"doctor-{secrets.token_hex(8)}"), NodeId(f"doctor-{secrets.token_hex(4)}")
    tried = [name for name in names if "subscribe" not in name and name != "select"]  # tried by the connect
    trials: list[Trial] = [(name, _trial(name, scratch)) for name in tried]
    trials += [(f"key {key}", ("HLEN", key)) for key in _keys(keys, node)]
    trials += [("", ("UNLINK", f"{scratch}{end}")) for end in ("", ":hash", ":zset", ":list")]
    async with _asking(factory) as ask:
        refused = [what for what, words in trials if await _is_refused(ask, *words) and what]
    for name in (name for name in names if "subscribe" in name):
        rooms = keys.room(node), keys.channel(box_of(node))
        for channel in (keys.all, keys.inbox(node), keys.canary(node), *rooms):
            async with _asking(factory) as ask:  # its own connection, which may receive messages
                if await _is_refused(ask, name.upper(), channel):
                    refused.append(f"{name} {channel}")
    return refused


async def _is_refused(ask: Ask, *words: str | int) -> bool:
    try:
        await ask(*words)
    except redis_errors.NoPermissionError:
        return True
    except redis_errors.ResponseError:
        return False  # another type or another server, but not forbidden
    return False


def _keys(keys: Keys, node: NodeId) -> list[str]:
    """Return a key of each kind."""
    of_node = [keys.info(node), keys.connections(node), keys.memberships(node)]
    of_names = [keys.client(node), keys.room(node), keys.room_counts(node), keys.token(node, node)]
    of_names += [keys.unreported(node), keys.sessions(node), keys.shown(node), keys.box_mark(node)]
    of_names += [keys.revoked(node)]
    logs = LogName(LogKind.ROOM, node), LogName(LogKind.BOX, node), LogName(LogKind.ALL)
    of_logs = [
        key
        for log in logs
        for key in (keys.log(log), keys.log_top(log), keys.since(log), keys.once(log, node))
    ]
    shared = [keys.leases, keys.dead, keys.secret, keys.epoch, keys.policy]
    return [*shared, *of_node, *of_names, *dict.fromkeys(of_logs)]


def _trial(name: str, key: str) -> tuple[str | int, ...]:
    """Return a harmless call of a command.

    It has enough arguments: Redis checks their number before the permissions.
    """
    words: dict[str, tuple[str | int, ...]] = {
        "info": ("server",),
        "client|kill": ("ID", 0),  # no client has this id
        "eval": ("return 1", 1, key),
        "evalsha": ("0" * 40, 1, key),
        "set": (key, "", "PX", 1000),
        "hset": (f"{key}:hash", "f", 1),
        "hget": (f"{key}:hash", "f"),
        "hdel": (f"{key}:hash", "f"),
        "hscan": (f"{key}:hash", 0),
        "hincrby": (f"{key}:hash", "n", 1),
        "hlen": (f"{key}:hash",),
        "hgetall": (f"{key}:hash",),
        "zadd": (f"{key}:zset", 1, "m"),
        "zrem": (f"{key}:zset", "m"),
        "zscore": (f"{key}:zset", "m"),
        "zrangebyscore": (f"{key}:zset", 0, 1),
        "rpush": (f"{key}:list", ""),
        "lrange": (f"{key}:list", 0, 0),
        "ltrim": (f"{key}:list", 0, 0),
        "pexpire": (f"{key}:list", 1000),
        "persist": (f"{key}:list",),
        "publish": (key, ""),
        "spublish": (key, ""),
        **dict.fromkeys(("get", "getdel", "unlink"), (key,)),
    }
    return (*name.upper().split("|"), *words.get(name, ()))
