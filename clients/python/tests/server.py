"""A pure model of the server: logs, sessions, and one end of each socket."""

import base64
import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi_websocket_stabilizer_client.messages import Log

ROOMS = ("a", "b")
LOGS: tuple[Log, ...] = ("a", "b", 0, 1)


class Violation(AssertionError):
    """A step broke a promise."""


@dataclass(frozen=True)
class Item:
    """An entry. ``is_for_client``: the client is not excluded."""

    id: int
    data: int
    key: str = ""
    is_for_client: bool = True


@dataclass
class ServerLog:
    """A log with all that was ever appended, and what a replay can read of it."""

    items: list[Item] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)
    base: int = 0
    behind: dict[int, int] = field(default_factory=lambda: {0: 0})
    """The number of entries up to an id."""

    @property
    def top(self) -> int:
        return self.kept[-1].id if self.kept else self.base

    def append(self, item: Item) -> None:
        self.items.append(item)
        self.kept.append(item)
        self.behind[item.id] = len(self.items)

    def cut(self, id_: int) -> None:
        """Lose what is kept. No position before the cut continues."""
        self.kept, self.base = [], id_
        self.behind[id_] = len(self.items)

    def after(self, position: int) -> list[Item] | None:
        """Return the entries behind a position, or None if the log does not know it."""
        if position == self.base:
            return list(self.kept)
        ids = [item.id for item in self.kept]
        return self.kept[ids.index(position) + 1 :] if position in ids else None


@dataclass
class Session:
    sid: str
    rooms: set[str]
    mark: int = 0
    peer: "Peer | None" = None
    is_consumed: bool = False


@dataclass
class Wire:
    """A socket: what is on its way in both directions."""

    generation: int
    items: tuple[str, ...]
    to_client: deque[Any] = field(default_factory=deque)
    to_server: deque[Any] = field(default_factory=deque)
    is_accepted: bool = False
    is_over: bool = False
    """The client has been told of the end, or has abandoned the socket."""
    peer: "Peer | None" = None


def cursor_of(items: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the cursor in the items of a handshake."""
    prefix = "stabilizer.v1.resume."
    for item in items:
        if item.startswith(prefix) and item != f"{prefix}later":
            coded = item.removeprefix(prefix)
            cursor: dict[str, Any] = json.loads(base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)))
            return cursor
    return None


class Peer:
    """The server's side of a socket."""

    def __init__(self, server: "Server", wire: Wire) -> None:
        self.server, self.wire = server, wire
        self.session: Session | None = None
        self.cursor: dict[str, Any] | None = None
        self.rooms: set[str] = set()
        self.watched: set[str] = set()
        self.asked: dict[int, int] = {}
        self.is_attached = self.is_later = self.is_gone = False
        if "stabilizer.v1.resume.later" not in wire.items:
            self.cursor = cursor_of(wire.items)
            self.attach()

    def send(self, frame: Any) -> None:
        if not self.is_gone:
            self.wire.to_client.append(json.dumps(frame) if not isinstance(frame, bytes) else frame)

    def close(self, code: int, reason: str = "") -> None:
        if not self.is_gone:
            self.wire.to_client.append((code, reason))
            self.leave()

    def leave(self) -> None:
        self.is_gone = True
        if self in self.server.peers:
            self.server.peers.remove(self)

    def attach(self) -> None:
        server = self.server
        if server.is_redis_away and self.cursor is None:
            self.close(1013)
            return
        former = server.claim(self.cursor["s"]) if self.cursor is not None else None
        self.session = server.new_session(self, former)
        self.rooms, self.is_attached = set(self.session.rooms), True
        server.peers.append(self)
        hi: dict[str, Any] = {"v": 1, "id": "ann", "sid": self.session.sid, "t": server.last_id, "ping": 25}
        hi["pong"] = False
        if former is not None:
            hi["n"] = former.mark
        if server.is_redis_away:
            self._greet_later(hi)
        else:
            self._greet(hi)
        if former is not None and former.peer is not None and server.evicts:
            former.peer.close(4500, json.dumps({"by": self.session.sid}))

    def _greet(self, hi: dict[str, Any]) -> None:
        starts, lost, replay = self._resume()
        if self.cursor is not None:
            hi["re"] = not lost
        if lost:
            hi["lost"] = lost
        self.send({"hi": hi | positions(starts)})
        self._replay(replay)
        self.send({"live": len(replay)})

    def _greet_later(self, hi: dict[str, Any]) -> None:
        self.is_later = True
        known = {log: self._known(log) for log in self.logs()}
        self.send({"hi": hi | {"re": "later"} | positions(known)})

    def logs(self) -> list[Log]:
        return [*sorted(self.rooms), 0, 1]

    def _known(self, log: Log) -> int | None:
        assert self.cursor is not None
        known = (
            self.cursor["at"].get(log) if isinstance(log, str) else self.cursor.get("all" if log else "box")
        )
        return None if known is None else int(known)

    def _resume(self) -> tuple[dict[Log, int], list[Any], list[tuple[Log, Item]]]:
        starts: dict[Log, int] = {}
        lost: list[Any] = []
        replay: list[tuple[Log, Item]] = []
        for log in self.logs():
            starts[log], row, items = self._resume_log(log)
            lost += [row] if row else []
            replay += [(log, item) for item in items]
        return starts, lost, replay

    def _resume_log(self, log: Log) -> tuple[int, list[Any], list[Item]]:
        """Return where a log starts, its row of ``lost``, and what is replayed."""
        server_log = self.server.logs[log]
        position = self._known(log) if self.cursor is not None else None
        if position is None:
            return server_log.top, [], []
        items = server_log.after(position)
        if items is None:
            return server_log.top, [log, server_log.top, "trimmed"], []
        return position, [], items

    def _replay(self, replay: list[tuple[Log, Item]]) -> None:
        for log, item in sorted(replay, key=lambda row: row[1].id):
            self.deliver(log, item)

    def deliver(self, log: Log, item: Item) -> None:
        if not item.is_for_client:
            self.send(positions({log: item.id}))
        elif item.data % 7 == 0:
            self.send(binary(log, item))
        else:
            self.send([item.id, log, item.data, *([item.key] if item.key else [])])

    def redis_is_back(self) -> None:
        if not self.is_later:
            return
        self.is_later = False
        starts, lost, replay = self._resume()
        self.send(positions({log: at for log, at in starts.items() if self._known(log) is None}))
        if lost:
            self.send({"lost": lost})
        self.send({"re": not lost})
        self._replay(replay)
        self.send({"live": len(replay)})

    # Frames of the client.

    def take(self, text: str | bytes) -> None:
        if isinstance(text, bytes):
            assert text[0] == 3
            self._message(
                {"m": int.from_bytes(text[5:], "big"), "n": int.from_bytes(text[1:5], "big") or None}
            )
            return
        frame = json.loads(text)
        kind = next(iter(frame), "alive")
        if self.is_attached is (kind == "resume"):
            raise Violation(f"{text} came {'after' if self.is_attached else 'before'} hi")
        takers = {
            "resume": self._cursor_came, "m": self._message, "ping": self._probed, "q": self._asked,
            "join": self._join, "leave": self._leave, "a": self._answered, "p": self._watch, "k": self._marked,
            "alive": self._ignore, "c": self._ignore,
        }  # fmt: skip
        if kind not in takers:
            raise Violation(f"a frame that the protocol has not: {text}")
        takers[kind](frame)

    def _cursor_came(self, frame: dict[str, Any]) -> None:
        self.cursor = frame["resume"]
        self.attach()

    def _ignore(self, frame: dict[str, Any]) -> None:
        pass

    def _probed(self, frame: dict[str, Any]) -> None:
        self.send({})

    def _asked(self, frame: dict[str, Any]) -> None:
        self.server.asked[frame["d"]] += 1
        self.send({"a": frame["q"], "d": frame["d"]} if frame["m"] != "never" else {})

    def _answered(self, frame: dict[str, Any]) -> None:
        self.server.answers[self.asked.pop(frame["a"], -1)] += 1

    def _marked(self, frame: dict[str, Any]) -> None:
        if frame["k"] not in self.server.logs[0].behind:
            raise Violation(f"a mark for {frame['k']}, which is no entry of the mailbox")

    def _message(self, frame: dict[str, Any]) -> None:
        assert self.session is not None
        number, data = frame.get("n"), frame["m"]
        if number is None:
            return
        if number > self.session.mark + 1:
            raise Violation(f"message {number} came after {self.session.mark}")
        answer: dict[str, Any] = {"n": max(number, self.session.mark)}
        if number == self.session.mark + 1:
            self.session.mark = number
            self.server.handled[data] += 1
            if data % 13 == 0:
                answer["x"] = {"code": "invalid", "message": "13"}
        self.send(answer)

    def _join(self, frame: dict[str, Any]) -> None:
        self._change_room(frame["join"], frame["q"], is_member=True)

    def _leave(self, frame: dict[str, Any]) -> None:
        self._change_room(frame["leave"], frame["q"], is_member=False)

    def _change_room(self, room: str, number: int, *, is_member: bool) -> None:
        assert self.session is not None
        if self.server.is_redis_away:
            self.send({"a": number, "x": {"code": "failed", "message": "no Redis", "retry": True}})
            return
        if is_member and room not in self.rooms:
            self.rooms.add(room)
            self._enter(room)
        elif not is_member and room in self.rooms:
            self.rooms.discard(room)
            self.watched.discard(room)
            self.send({"out": room})
        self.session.rooms = set(self.rooms)
        self.send({"a": number, "d": None})

    def _enter(self, room: str) -> None:
        start, row, items = self._resume_log(room)
        if row:
            self.send({"lost": [row]})
        was_named = self.cursor is not None and room in self.cursor["at"]
        self.send({"in": room, "at": start} | ({"re": not row} if was_named else {}))
        if self.cursor is not None:
            self.cursor["at"].pop(room, None)
        self._replay([(room, item) for item in items])

    def _watch(self, frame: dict[str, Any]) -> None:
        room, version = frame["p"], frame["v"]
        if version is None:
            self.watched.discard(room)
            return
        if room not in self.rooms:
            return
        self.watched.add(room)
        current, members = self.server.presence[room]
        if version != current:
            rows = [[client, None] for client in sorted(members)]
            self.send({"p": room, "v": current, "=": rows[:1], "more": 1})
            self.send({"p": room, "v": current, "=": rows[1:]})


def positions(at: Mapping[Log, int | None]) -> dict[str, Any]:
    """Return positions as a frame has them."""
    others = {key: at[log] for key, log in (("all", 1), ("box", 0)) if at.get(log) is not None}
    return {"at": {log: position for log, position in at.items() if isinstance(log, str)}} | others


def binary(log: Log, item: Item) -> bytes:
    room = log.encode() if isinstance(log, str) else b""
    kind = 4 if item.key else 0 if isinstance(log, str) else 2 if log else 1
    key = bytes([len(item.key)]) + item.key.encode() if item.key else b""
    data = item.data.to_bytes(4, "big")
    return bytes([kind]) + item.id.to_bytes(8, "big") + len(room).to_bytes(2, "big") + room + key + data


class Server:
    """All replicas and their Redis."""

    def __init__(self, *, evicts: bool) -> None:
        self.evicts = evicts
        self.logs = {log: ServerLog() for log in LOGS}
        self.sessions: dict[str, Session] = {}
        self.peers: list[Peer] = []
        self.presence: dict[str, tuple[int, set[str]]] = {room: (1, {"ann"}) for room in ROOMS}
        self.told: dict[str, tuple[int, set[str]]] = {}
        self.handled: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.is_redis_away = False
        self.last_id = self.last_session = self.last_data = self.last_key = self.cuts = 0

    def claim(self, sid: str) -> Session | None:
        """Return the session that a connection takes over, if it can be had. It can be had once."""
        session = self.sessions.get(sid)
        if session is None or session.is_consumed or self.is_redis_away:
            return None
        session.is_consumed = True
        return session

    def new_session(self, peer: Peer, former: Session | None) -> Session:
        self.last_session += 1
        rooms = {"a"} | (former.rooms if former is not None else set())
        session = Session(f"s{self.last_session}", rooms, former.mark if former is not None else 0, peer)
        self.sessions[session.sid] = session
        return session

    def new_data(self) -> int:
        self.last_data += 1
        return self.last_data

    def publish(self, logs: tuple[Log, ...], *, is_for_client: bool = True) -> None:
        if self.is_redis_away:
            return
        self.last_key += 1
        data, key = self.new_data(), f"k{self.last_key}" if len(logs) > 1 else ""
        for log in logs:
            self.last_id += 1000
            item = Item(self.last_id, data, key, is_for_client)
            self.logs[log].append(item)
            self._tell(log, partial(Peer.deliver, log=log, item=item))

    def whisper(self, log: Log) -> None:
        self._tell(log, lambda peer: peer.send([0, log, self.new_data()]))

    def trim(self, log: Log) -> None:
        if self.logs[log].kept:
            self.logs[log].base = self.logs[log].kept.pop(0).id

    def fail_over(self, log: Log) -> None:
        """Lose the newest entries. Ids of later ones can be smaller than theirs."""
        if self.is_redis_away:
            return
        self.cuts += 1
        kept = self.logs[log].kept
        cut = (kept[0].id if kept else self.logs[log].base) // 1000 * 1000 + 500 + self.cuts
        self.logs[log].cut(cut)
        # The last digits of ids are new after each cut, so that no id is used twice.
        self.last_id = max(log.top for log in self.logs.values()) // 1000 * 1000 + 1000 + self.cuts
        self._tell(log, lambda peer: peer.send({"lost": [[log, cut, "hole"]]}))

    def _tell(self, log: Log, tell: Callable[[Peer], None]) -> None:
        for peer in list(self.peers):
            if (not isinstance(log, str) or log in peer.rooms) and not peer.is_later:
                tell(peer)

    def change_presence(self, room: str, client: str, *, is_told: bool, is_joined: bool = False) -> None:
        """Change the members of a room. Watchers may miss it, or learn it with the next change."""
        version, members = self.presence[room]
        self.presence[room] = version + 1, members ^ {client}
        if not is_told:
            return
        from_, before = self.told.get(room, (1, {"ann"})) if is_joined else (version, members)
        self.told[room] = now, after = self.presence[room]
        change: dict[str, Any] = {"p": room, "v": now} | ({"from": from_} if is_joined else {})
        change |= {"+": [[arrived, None] for arrived in sorted(after - before)]} if after - before else {}
        change |= {"-": sorted(before - after)} if before - after else {}
        for peer in self.peers:
            if room in peer.watched:
                peer.send(change)

    def expire_sessions(self) -> None:
        for session in self.sessions.values():
            session.is_consumed = True

    def redis(self, *, is_away: bool) -> None:
        self.is_redis_away = is_away
        if not is_away:
            for peer in list(self.peers):
                peer.redis_is_back()
