"""What the page says besides numbers."""

HEAD = """# Benchmarks

What this library costs next to the systems that do the same job. Two replicas of each on one Valkey, and raw-socket
clients in a process of their own that count every message and measure its delay. What is compared is the **CPU of the
servers**: all replicas and all their processes, without Redis and the clients, read in nanoseconds from the kernel.
Messages have 128 bytes unless said. Cells are medians over the runs, with the lowest and the highest.

```bash
pip install -e ".[benchmarks]"
python -m benchmarks                            # everything; --quick to see that it works, --help for parts
python -m benchmarks --json results.json        # keep the raw samples
python -m benchmarks --render results.json      # this page again, from them
```

It installs nothing by itself, and says what is missing. A C compiler is needed (the clients' reading loop), and for
the peers outside the extra:

```bash
python -m venv old
old/bin/pip install fastapi-websocket-stabilizer==1.1.0 redis hiredis uvicorn uvloop httptools websockets
export BENCHMARKS_OLD_PYTHON=old/bin/python
npm install socket.io @socket.io/redis-adapter redis
export BENCHMARKS_NODE_MODULES=node_modules
apt-get install nginx-light libnginx-mod-nchan
```

How each is set up, as its documentation recommends for production:

- **This library**: `@manager.websocket`, as in the README, so that sockets are parked. *Not parked*: an endpoint that
  holds `manager.connection(…)`. *Stock uvicorn*: `uvicorn_protocol=False`.
- **Release 1.1 + pub/sub listener**: a manager in each replica, and a task that iterates redis-py's `PubSub.listen()`
  and awaits `manager.broadcast` or `send_to_client`.
- **python-socketio**: `AsyncServer` with `AsyncRedisManager`, WebSocket transport only, a room for each client.
- **channels_redis**: the pub/sub layer under FastAPI, one channel a socket, one group for all or one for each client;
  without Django's consumers, which cost several times as much.
- **hubcast**: as in its README, with queues of 1,000 instead of 100, which a burst overflows.
- **socket.io**: one Node process a replica, `NODE_ENV=production`, WebSocket only, `@socket.io/redis-adapter` with
  the `redis` client; `perMessageDeflate` off, as is its default, except where compression is measured.
- **nchan**: one nginx with one worker a replica, no access log, Redis in distributed mode, published to over HTTP
  connections that are kept. A client's channel is its own for direct sends and everybody's for broadcasts. Its
  publisher is outside the servers and is not counted; the others send from inside a replica.
- **Bare FastAPI WebSocket**: `accept()`, then a loop of `receive_text()`; no Redis.

Python servers run under uvicorn with uvloop and httptools, one process a replica."""

LIMITS = """
What holds back the goals that are not met, by a sampling profiler on both replicas (py-spy, native frames, 5 s):

- **(a)** misses two ratios by less than their spread. With 10,000 clients joined messages are one write a socket, and
  those writes are 55–71 % of the CPU. On stock uvicorn each message is a write of its own: 69 % is `write`, and most
  of the rest Starlette's and uvicorn's own `send`.
- **(b)** One message at a time is one system call a socket. Of its CPU 69–71 % is `write`, 10 % waiting for the next
  event (`epoll_pwait`), and no Python function has more than 3 %. nginx, in C, needs two thirds of our time for the
  same. One call for the writes of many sockets (io_uring) would lift it; Python's event loops have none.
- **(d)** misses one ratio by less than its spread. Of the sender's CPU 19 % is `write` and 5 % `epoll_pwait`, of the
  receiver's 26 % and 42 %. The rest is spread over the call, its share of a script call and of an envelope: no
  function of ours has more than 4 %. An event loop and an envelope codec in C would lift it; fewer promises would,
  too (an answer whether the client is there, one order through all paths)."""

_HANDSHAKE = "The handshake, FastAPI's routing and dependencies are Python; nginx's are C."
REASONS = {
    ("awaited", "nchan"): (
        "A call that is awaited alone pays a whole round trip through Redis and Python for one message a socket:"
        " there is nothing to write together. nginx does the same in C."
    ),
    (
        "direct",
        "nchan",
    ): "Each send is a script call, a publication and a write in Python; nchan does them in C.",
    ("connect_plain", "nchan"): _HANDSHAKE,
    ("connect_deflate", "nchan"): _HANDSHAKE,
    ("c", ""): "At this pace every message is a write of its own, so both are bound by the system calls.",
    ("d", ""): (
        "Each send is looked up in the registry by a script in Redis, and goes to one replica; this peer publishes"
        " to all replicas and learns nothing of the client."
    ),
    ("e", ""): "This peer keeps a connection in a few C structures; ours are Python objects.",
    ("f", ""): "Connecting also claims the client in Redis and registers it, which this peer does not do.",
    (
        "i",
        "",
    ): "Both compress once for all clients; at this size the time goes into the compressor and the kernel.",
}
"""Why a peer does better, by measure and peer, else by the measure's letter."""
GROWTH_VALUES = (
    ("growth_burst", "cpu_us"),
    ("growth_paced", "p99_ms"),
    ("growth_paced", "cpu_percent"),
    ("idle", "cpu_percent"),
    ("idle", "commands_per_s"),
)
