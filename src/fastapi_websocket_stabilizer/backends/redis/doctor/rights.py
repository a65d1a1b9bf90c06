"""What a Redis user needs: the least that the registry works with. ``stabilizer doctor`` prints and tries it."""

CONNECTION = "ping", "info", "client|id", "client|kill"
"""The last two end a connection that was given up; without them it may still carry something out, late."""
SCRIPTS = "eval", "evalsha", "time"
KEYS = (
    *("get", "set", "getdel", "unlink"),
    *("hset", "hget", "hdel", "hlen", "hgetall", "hscan", "hincrby"),
    *("zadd", "zrem", "zscore", "zrangebyscore"),
)
CHANNELS = "publish", "subscribe", "unsubscribe"
DATABASE = ("select",)
"""If it is not database 0."""
SENTINEL = ("role",)
CLUSTER = "cluster|slots", "asking"
SHARDED = "spublish", "ssubscribe", "sunsubscribe"


def commands(kind: str = "server", *, is_sharded: bool = False, database: int = 0) -> list[str]:
    """Return the names of the commands that a kind of location needs; ``is_sharded`` from Redis 7 on."""
    found = [*CONNECTION, *SCRIPTS, *KEYS, *CHANNELS]
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
