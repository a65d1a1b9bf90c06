"""The text of the page."""

HEAD = """# Benchmarks

This page compares the cost of this library with the cost of systems that do the same job. Each system runs two
replicas on one Valkey. Raw-socket clients in a process of their own count every message and measure its delay.

The compared value is the **CPU of the servers**: all replicas and all their processes, without Redis and the
clients. It is read in nanoseconds from the kernel. Messages have 128 bytes unless stated otherwise. Cells are
medians over the runs, with the lowest and the highest value.

```bash
pip install -e ".[benchmarks]"
python -m benchmarks                            # everything; --quick to see that it works, --help for parts
python -m benchmarks --json results.json        # keep the raw samples
python -m benchmarks --render results.json      # this page again, from them; a later file replaces what it has
```

The command installs nothing by itself, and names missing parts. It needs a C compiler for the clients' reading loop.
The peers outside the extra need:

```bash
python -m venv old
old/bin/pip install fastapi-websocket-stabilizer==1.1.0 redis hiredis uvicorn uvloop httptools websockets
export BENCHMARKS_OLD_PYTHON=old/bin/python
npm install socket.io @socket.io/redis-adapter redis
export BENCHMARKS_NODE_MODULES=node_modules
apt-get install nginx-light libnginx-mod-nchan
go install github.com/centrifugal/centrifugo/v6@latest   # or: export CENTRIFUGO=path/to/the/binary
git worktree add before 2489a94                          # this library before history
export BENCHMARKS_BEFORE=before
```

Each system is set up as its documentation recommends for production:

- **This library**: `@manager.websocket`, as in the README, so that sockets are parked. *Not parked*: an endpoint
  that holds `manager.connection(…)`. *Stock uvicorn*: `uvicorn_protocol=False`. *Before history*: another checkout.
- **Release 1.1 + pub/sub listener**: a manager in each replica, and a task that iterates redis-py's
  `PubSub.listen()` and awaits `manager.broadcast` or `send_to_client`.
- **python-socketio**: `AsyncServer` with `AsyncRedisManager`, WebSocket transport only, a room for each client.
- **channels_redis**: the pub/sub layer under FastAPI, one channel per socket, one group for all or one for each
  client. Django's consumers are left out, because they cost several times as much.
- **hubcast**: as in its README, with queues of 1,000 instead of 100, because a burst overflows 100.
- **socket.io**: one Node process per replica, `NODE_ENV=production`, WebSocket only, `@socket.io/redis-adapter` with
  the `redis` client. `perMessageDeflate` is off, as is its default, except where compression is measured.
- **nchan**: one nginx with one worker per replica, no access log, Redis in distributed mode. Messages are published
  over persistent HTTP connections. Direct sends use one channel for each client, broadcasts one channel for all. The
  publisher runs outside the servers and is not counted; the other systems send from inside a replica.
- **Centrifugo**: one process per replica, Redis engine, JSON protocol, a configuration file, no usage statistics.
  Clients need no token, as with the other systems. They send `connect` and `subscribe` in one frame, as centrifuge-js
  does. Messages are published over persistent HTTP connections. Those of one turn of the publisher's event loop leave
  as one parallel `batch`. As with nchan, the publisher is not counted. A frame may have several messages, and each is
  counted. Channels with history keep 500 entries for 120 s, with `force_recovery`. Compression is not measured,
  because the clients would have to inflate each frame to count its messages.
- **Bare FastAPI WebSocket**: `accept()`, then a loop of `receive_text()`; no Redis.

Python servers run under uvicorn with uvloop and httptools, one process per replica.

In (k), (l) and (n) all systems run at the same time and take turns. A machine that drifts then drifts for all of
them. Rooms with history have names of the same length in all systems. Clients that come back dial together, 256 at a
time, and send what they remember of their position. Their handshakes are answered by the compiled loop. The CPU is
that of the servers from the first dial until one second after the last message. (m) has the same clients as (n).
Their results are in [benchmarks-rooms.md](benchmarks-rooms.md)."""

LIMITS = """
A sampling profiler on both replicas (py-spy, native frames, 5 s) shows the limits behind the goals that are not met:

- **(a)** misses two ratios by less than their spread. With 10,000 clients, joined messages are one write per socket,
  and these writes take 55–71 % of the CPU. On stock uvicorn each message is a write of its own. There `write` takes
  69 %, and most of the rest is the `send` of Starlette and of uvicorn.
- **(b)** One message at a time is one system call per socket. `write` takes 69–71 % of the CPU, waiting for the next
  event (`epoll_pwait`) 10 %, and no Python function more than 3 %. nginx, in C, needs two thirds of that time for
  the same work. A single call for the writes of many sockets (io_uring) would raise the ratio. Python's event loops
  have none.
- **(d)** misses one ratio by less than its spread. `write` takes 19 % of the sender's CPU and `epoll_pwait` 5 %; at
  the receiver they take 26 % and 42 %. The rest is spread over the call, its share of a script call and its share of
  an envelope. No function of this library takes more than 4 %. An event loop and an envelope codec in C would raise
  the ratio. So would fewer promises: no answer whether the client is connected, or no one order across all paths."""

_HANDSHAKE = "The handshake, FastAPI's routing and dependencies are Python; nginx's are C."
REASONS = {
    ("awaited", "nchan"): (
        "A call that is awaited alone pays a whole round trip through Redis and Python for one message per socket."
        " No writes can be joined. nginx does the same in C."
    ),
    (
        "direct",
        "nchan",
    ): "Each send is a script call, a publication and a write in Python; nchan does them in C.",
    ("connect_plain", "nchan"): _HANDSHAKE,
    ("connect_plain", "centrifugo"): "Its handshake is compiled, and it keeps no registry of clients.",
    ("n", ""): (
        "Most of it is connecting: the handshake is Python, and the client is registered, with its rooms and its"
        " session. The log is read twice on each replica, by this peer once for each client."
    ),
    ("connect_deflate", "nchan"): _HANDSHAKE,
    ("c", ""): "At this pace every message is a write of its own, so system calls limit both systems.",
    ("d", ""): (
        "Each send is looked up in the registry by a script in Redis, and goes to one replica; this peer publishes"
        " to all replicas and learns nothing about the client."
    ),
    ("e", ""): "This peer keeps a connection in a few C structures; this library keeps it in Python objects.",
    ("f", ""): "Connecting also claims the client in Redis and registers it, which this peer does not do.",
    (
        "i",
        "",
    ): "Both compress once for all clients; at this size the compressor and the kernel take the time.",
}
"""Reasons for a better result of a peer, by measure and peer, or by the letter of the measure."""
GROWTH_VALUES = (
    ("growth_burst", "cpu_us"),
    ("growth_paced", "p99_ms"),
    ("growth_paced", "cpu_percent"),
    ("idle", "cpu_percent"),
    ("idle", "commands_per_s"),
)
