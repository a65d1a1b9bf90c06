"""Redis' CPU and memory for stored messages: ``python -m benchmarks.logs``. Lists as built, streams to compare."""

import random
import statistics
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import redis
from tests.support.servers import Missing, RedisServer, find_row

from fastapi_websocket_stabilizer.backends.log_ports import LogKind, LogName
from fastapi_websocket_stabilizer.backends.redis import scripts
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, pack

SERVER = "valkey-9.1"
ROUNDS = 5
COMMANDS = 20_000
BATCH = 100
"""Commands in one pipeline."""
MAILBOXES = 100_000
MARK, MARK_MS = 1_796_045_945_097_123, 259_200_000
BODY = "x" * 128
BOUNDS = 500, 262_144, 120_000_000
KEYS = Keys("fws")
ROOM = LogName(LogKind.ROOM, "chat:7")

STREAM_APPEND = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local meta = redis.call('GET', KEYS[2])
local top, base, touched = 0, 0, 0
if meta then top, base, touched = struct.unpack('<ddd', meta) end
local id = math.max(now, top + 1)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], string.format('%.0f-0', id), 'e', ARGV[4])
if now - touched > 15000000 then touched = now; redis.call('PEXPIRE', KEYS[1], 150000) end
redis.call('SET', KEYS[2], struct.pack('<ddd', id, base, touched), 'PX', 3600000)
local envelope = '\\157' .. string.sub(ARGV[4], 2) .. struct.pack('>BBI8BI8', 0x92, 0xcf, id, 0xcf, top)
return {id, top, redis.call(ARGV[1], ARGV[3], envelope)}
"""

Words = Sequence[str | bytes | int]


def main() -> int:
    """Measure, and print the figures as Markdown."""
    binary = find_row(SERVER)
    if isinstance(binary, Missing):
        print(binary.reason, file=sys.stderr)
        return 2
    with RedisServer(binary) as server, redis.Redis(port=server.port, socket_timeout=60) as client:
        print(f"{SERVER} {server.version}, messages of {len(BODY)} bytes, median of {ROUNDS} rounds\n")
        print("| Redis' CPU | µs |\n|---|---:|")
        for name, words, share in _commands(client):
            print(f"| {name} | {_cpu_us(client, words) / share:.1f} |", flush=True)
        print("\n| memory | list | stream |\n|---|---:|---:|")
        for size in (1, 100):
            print(f"| log of {size}, bytes | {_list_bytes(client, size)} | {_stream_bytes(client, size)} |")
        megabytes = [fill(client) / 1e6 for fill in (_fill_lists, _fill_streams)]
        print(f"| {MAILBOXES:,} mailboxes of 1, MB | {megabytes[0]:.1f} | {megabytes[1]:.1f} |")
        print(f"| {MAILBOXES:,} marks of mailboxes, MB | {_fill_marks(client) / 1e6:.1f} | none |")
    return 0


def broadcast(sequence: int, to: str = "chat:7") -> bytes:
    """Return the envelope of a message to a room, or to the mailbox of a client."""
    sender = NodeId("0123456789abcdef")
    return pack(Envelope(sender, sequence, sequence - 1, Kind.BROADCAST, (to,), body=BODY))


def append(count: int, log: LogName = ROOM, data: bytes = b"") -> list[Any]:
    """Return the call of ``log_append.lua`` for ``count`` messages of one tick."""
    settings = struct.pack("<7d", count, *BOUNDS, 0, 0, 0)
    entries = [data or broadcast(70_000 + number) for number in range(count)]
    key, meta, channel = KEYS.log(log), KEYS.log_top(log), KEYS.log_channel(log)
    return ["EVALSHA", scripts.LOG_APPEND.sha, 2, key, meta, "PUBLISH", settings, channel, *entries]


def _commands(client: redis.Redis) -> Iterator[tuple[str, Words, int]]:
    """Yield a name, a command, and the number of messages in it."""
    client.script_load(scripts.LOG_APPEND.source)
    empty, stream = client.script_load("return 1"), client.script_load(STREAM_APPEND)
    channel, key, meta = KEYS.room("chat:7"), KEYS.log(ROOM), KEYS.log_top(ROOM)
    yield "PUBLISH", ("PUBLISH", channel, broadcast(70_000)), 1
    yield "script that does nothing", ("EVALSHA", empty, 0), 1
    yield "append, one in a tick", append(1), 1
    yield "append, one of ten in a tick", append(10), 10
    yield "append to a mailbox", append(1, LogName(LogKind.BOX, "alice"), _direct("alice")), 1
    stream_keys = 2, "fws:{00}:stream", "fws:{00}:stream:top"
    yield (
        "append to a stream",
        ("EVALSHA", stream, *stream_keys, "PUBLISH", 500, channel, broadcast(70_000)),
        1,
    )
    yield "read 100 of a list", ("LRANGE", key, -100, -1), 1
    yield "read 100 of a stream", ("XREVRANGE", "fws:{00}:stream", "+", "-", "COUNT", 100), 1
    yield "GET meta (twice a read)", ("GET", meta), 1
    yield "GET since (once a read)", ("GET", KEYS.since(ROOM)), 1
    yield "TIME (once a read)", ("TIME",), 1


def _direct(client_id: str) -> bytes:
    return broadcast(70_000, client_id)


def _cpu_us(client: redis.Redis, words: Words) -> float:
    """Return the CPU that Redis takes for a command and its share of the I/O."""
    return statistics.median(_round_us(client, words) for _ in range(ROUNDS))


def _round_us(client: Any, words: Words) -> float:
    before_s = _cpu_s(client)
    for _ in range(COMMANDS // BATCH):
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(BATCH):
                pipeline.execute_command(*words)
            pipeline.execute()
    return (_cpu_s(client) - before_s) / COMMANDS * 1e6


def _cpu_s(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


def _list_bytes(client: Any, size: int) -> str:
    log = LogName(LogKind.ROOM, f"log of {size}")
    client.execute_command(*append(size, log))
    parts = [client.memory_usage(key) or 0 for key in (KEYS.log(log), KEYS.log_top(log))]
    return f"{parts[0]:,} and {parts[1]} of its meta"


def _stream_bytes(client: redis.Redis, size: int) -> str:
    for number in range(size):
        client.xadd(f"stream of {size}", {"e": broadcast(70_000 + number)})
    return f"{client.memory_usage(f'stream of {size}') or 0:,}"


def _filled(client: Any, fill: Callable[[Any, str], None]) -> int:
    client.execute_command("FLUSHALL", "SYNC")  # otherwise memory is freed while it is measured
    before = int(client.info("memory")["used_memory"])
    names = [f"{random.getrandbits(64):016x}" for _ in range(MAILBOXES)]
    for start in range(0, MAILBOXES, BATCH):
        with client.pipeline(transaction=False) as pipeline:
            for name in names[start : start + BATCH]:
                fill(pipeline, name)
            pipeline.execute()
    return int(client.info("memory")["used_memory"]) - before


def _fill_lists(client: Any) -> int:
    return _filled(
        client, lambda pipe, name: pipe.execute_command(*append(1, LogName(LogKind.BOX, name), _direct(name)))
    )


def _fill_marks(client: Any) -> int:
    return _filled(client, lambda pipe, name: pipe.set(KEYS.box_mark(name), MARK, px=MARK_MS))


def _fill_streams(client: redis.Redis) -> int:
    return _filled(client, lambda pipe, name: pipe.xadd(f"fws:{{00}}:box:{name}", {"e": _direct(name)}))


if __name__ == "__main__":
    sys.exit(main())
