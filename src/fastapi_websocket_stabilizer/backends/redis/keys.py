"""Names of keys and channels, which only this file builds. ``docs/design.md`` has the table.

The part in braces is the hash tag, which determines the slot in Redis Cluster. A namespace has no braces, and a
client id or room name comes last. So no name can change the slot of its key or collide with another key.
"""

from redis.crc import key_slot

from ...names import NodeId, partition
from ...wire.channels import ALL, INBOX, Channel, box_of
from ..log_ports import LogKind, LogName


class Keys:
    """Every key and channel of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._ns = namespace
        self.leases: str = f"{namespace}:{{nodes}}:leases"
        self.dead: str = f"{namespace}:{{nodes}}:dead"
        self.epoch: str = self.epoch_of("nodes")
        self.secret: str = f"{namespace}:{{nodes}}:secret"
        self.policy: str = f"{namespace}:{{nodes}}:policy"
        self.all: str = f"{namespace}:all"
        self.inbox_prefix: str = f"{namespace}:{{"
        self.inbox_suffix: str = "}:inbox"
        # Length in bytes of a client's key before the id.
        self.client_prefix_bytes: int = len(self.client("").encode())

    def epoch_of(self, tag: str) -> str:
        """Epoch of the server that owns the slot of this hash tag."""
        return f"{self._ns}:{{{tag}}}:epoch"

    def info(self, node: NodeId) -> str:
        return f"{self._ns}:{{nodes}}:info:{node}"

    def workers(self, group: str) -> str:
        """Hash of the workers of one server, with what each has published of itself."""
        return f"{self._ns}:{{nodes}}:workers:{group}"

    def connections(self, node: NodeId) -> str:
        """Index: connection_id -> client_id."""
        return f"{self._ns}:{{{node}}}:connections"

    def memberships(self, node: NodeId) -> str:
        """Index: ``<connection_id> <room>`` -> ``<stay> <client_id>``."""
        return f"{self._ns}:{{{node}}}:memberships"

    def inbox(self, node: NodeId) -> str:
        return f"{self.inbox_prefix}{node}{self.inbox_suffix}"

    def is_inbox(self, channel: str) -> bool:
        """Whether ``channel`` is an inbox. Checked from the front: a room name may also end in ``}:inbox``."""
        is_tagged = channel.startswith(self.inbox_prefix)
        return is_tagged and channel.removeprefix(self.inbox_prefix).partition("}")[2] == ":inbox"

    def channel(self, channel: Channel) -> str:
        """Return the name of a channel that is not an inbox."""
        if channel.client:
            return self.box(channel.client)
        return self.room(channel.room) if channel.room else self.all

    def channel_of(self, name: bytes) -> Channel:
        """Return the channel with this name."""
        _, is_tagged, rest = name.decode().partition("}:")
        if not is_tagged:
            return ALL
        if rest.startswith("box:"):
            return box_of(rest.removeprefix("box:"))
        return Channel("room", rest.removeprefix("room:")) if rest.startswith("room:") else INBOX

    def canary(self, name: str) -> str:
        """Channel of the canaries of one bus connection."""
        return f"{self._ns}:{{{name}}}:canary"

    def client(self, client_id: str) -> str:
        return f"{self._ns}:{{{partition(client_id)}}}:client:{client_id}"

    def sessions(self, client_id: str) -> str:
        """Hash of a client's sessions, and of their rooms."""
        return f"{self._ns}:{{{partition(client_id)}}}:sessions:{client_id}"

    def revoked(self, client_id: str) -> str:
        """Sorted set of what was taken from a client."""
        return f"{self._ns}:{{{partition(client_id)}}}:revoked:{client_id}"

    def room(self, room: str) -> str:
        """Hash of members, and the channel of the room's messages."""
        return f"{self._ns}:{{{partition(room)}}}:room:{room}"

    def room_counts(self, room: str) -> str:
        return f"{self._ns}:{{{partition(room)}}}:count:{room}"

    def shown(self, room: str) -> str:
        """Hash of the clients that a room shows to others, and the version of that."""
        return f"{self._ns}:{{{partition(room)}}}:shown:{room}"

    def unreported(self, name: str) -> str:
        """Hash of unconfirmed presence events in the partition of a client or a room."""
        return f"{self._ns}:{{{partition(name)}}}:unreported"

    def log(self, log: LogName) -> str:
        """List of a log's entries, the newest last."""
        return self.box(log.name) if log.kind is LogKind.BOX else self._of_log(log, {LogKind.ROOM: "log"})

    def log_top(self, log: LogName) -> str:
        """Meta of a log: its newest id, and what it has lost."""
        return self._of_log(log, {LogKind.ROOM: "top", LogKind.BOX: "boxtop"})

    def _of_log(self, log: LogName, words: dict[LogKind, str]) -> str:
        if log.kind is LogKind.ALL:
            return f"{self._ns}:{{{self.all}}}:{words[LogKind.ROOM]}"
        return f"{self._ns}:{{{partition(log.name)}}}:{words[log.kind]}:{log.name}"

    def since(self, log: LogName) -> str:
        """Time since which the partition of a log has its content."""
        return self.since_of(self.all if log.kind is LogKind.ALL else partition(log.name))

    def since_of(self, tag: str) -> str:
        """Time since which a hash tag has its content."""
        return f"{self._ns}:{{{tag}}}:since"

    def once(self, log: LogName, digest: str) -> str:
        """Id of the first append with a key. The digest covers the log and the key."""
        tag = self.all if log.kind is LogKind.ALL else partition(log.name)
        return f"{self._ns}:{{{tag}}}:once:{digest}"

    def box(self, client_id: str) -> str:
        """List of the entries of a mailbox, and its channel."""
        return f"{self._ns}:{{{partition(client_id)}}}:box:{client_id}"

    def box_mark(self, client_id: str) -> str:
        """Id up to which a client has handled its mailbox."""
        return f"{self._ns}:{{{partition(client_id)}}}:boxmark:{client_id}"

    def log_channel(self, log: LogName) -> str:
        """Channel of the entries of a log."""
        match log.kind:
            case LogKind.ALL:
                return self.all
            case LogKind.ROOM:
                return self.room(log.name)
        return self.log(log)

    def token(self, digest: str, client_id: str) -> str:
        return f"{self._ns}:{{{partition(client_id)}}}:token:{digest}"


def slot_of(key: str) -> int:
    """Return the slot of a key or channel."""
    return key_slot(key.encode())
