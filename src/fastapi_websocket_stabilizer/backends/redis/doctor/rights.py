"""The minimum permissions of the Redis user, which ``stabilizer doctor`` prints and tries."""

CONNECTION = "ping", "info", "client|id", "client|kill"
"""The last two kill an abandoned connection; without them it may still execute commands later."""
SCRIPTS = "eval", "evalsha", "time"
KEYS = (
    *("get", "set", "getdel", "unlink"),
    *("hset", "hget", "hdel", "hlen", "hgetall", "hscan", "hincrby"),
    *("zadd", "zrem", "zscore", "zrangebyscore"),
)
KEPT = "rpush", "lrange", "ltrim", "pexpire", "persist"
"""Needed once a registry stores messages, or keeps sessions of ``stabilizer.v1`` (the last two)."""
CHANNELS = "publish", "subscribe", "unsubscribe"
DATABASE = ("select",)
"""Needed for a database other than 0."""
SENTINEL = ("role",)
CLUSTER = "cluster|slots", "asking"
SHARDED = "spublish", "ssubscribe", "sunsubscribe"


def commands(kind: str = "server", *, is_sharded: bool = False, database: int = 0) -> list[str]:
    """Return the names of the commands that a kind of location needs; ``is_sharded`` from Redis 7 on."""
    found = [*CONNECTION, *SCRIPTS, *KEYS, *KEPT, *CHANNELS]
    if database:
        found += DATABASE
    if kind == "sentinel":
        found += SENTINEL
    if kind == "cluster":
        found += (*CLUSTER, *SHARDED) if is_sharded else CLUSTER
    return found


def acl_rule(namespace: str, names: list[str]) -> str:
    """Return the rule for ``ACL SETUSER``, without name and password."""
    allowed = " ".join(f"+{name}" for name in names)
    return f"resetkeys ~{namespace}:* resetchannels &{namespace}:* -@all {allowed}"
