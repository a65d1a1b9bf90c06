"""The JavaScript machine with the interface of the Python one, for the same schedules."""

import json
import subprocess
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Self, cast

from fastapi_websocket_stabilizer_client import actions as do
from fastapi_websocket_stabilizer_client import errors, frames
from fastapi_websocket_stabilizer_client.messages import Data, Lost, Message, Status, StatusChange
from fastapi_websocket_stabilizer_client.options import Options

ERRORS: dict[str, type[errors.StabilizerClientError]] = {
    "not-connected": errors.NotConnectedError,
    "timeout": errors.RequestTimeoutError,
    "interrupted": errors.InterruptedRequestError,
    "limit": errors.LimitError,
    "invalid": errors.InvalidDataError,
    "closed": errors.ClosedError,
    "replaced": errors.ReplacedError,
    "unauthorized": errors.UnauthorizedError,
    "incompatible": errors.IncompatibleServerError,
}


class Node:
    """A process that runs one machine after the other."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            ["node", str(directory / "bridge.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def call(self, chance: Callable[[], float], *event: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._write(event)
        while True:
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            if "chance" not in answer:
                return answer
            self._write(chance())

    def _write(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its input, which ends it
            pass


class JavaScriptMachine:
    """One machine in a process of Node."""

    def __init__(self, node: Node, chance: Callable[[], float], options: Options) -> None:
        self._node, self._chance = node, chance
        self.status, self.cursor, self.timer_at = Status.IDLE, None, None
        self._node.call(chance, "create", {"_hasAuth": options.has_auth, "_maxHeld": options.max_held})

    def _do(self, name: str, now_s: float, *parameters: Any) -> list[do.Action]:
        answer = self._node.call(self._chance, name, now_s * 1000, *map(_sent, parameters))
        self.status, self.cursor = Status(answer["status"]), answer["cursor"]
        self.timer_at = None if answer["timerAt"] is None else answer["timerAt"] / 1000
        if (error := _error(answer["error"])) is not None:
            raise error
        return [_action(*action) for action in answer["actions"]]

    def __getattr__(self, name: str) -> Callable[..., list[do.Action]]:
        return lambda *parameters: self._do(name, parameters[-1], *parameters[:-1])

    def send(self, data: Data, now_s: float) -> list[do.Action]:
        return self._do("transmit", now_s, data)

    def close(self, now_s: float) -> list[do.Action]:
        return self._do("end", now_s)

    def answer(self, generation: int, number: int, data: Data, error: Any, now_s: float) -> list[do.Action]:
        return self._do("answer", now_s, generation, number, error, data)

    def confirm(self, key: Hashable, data: Data, deadline_s: float, now_s: float) -> list[do.Action]:
        return self._do("confirm", now_s, key, (deadline_s - now_s) * 1000, data)

    def request(
        self, key: Hashable, name: str, data: Data, deadline_s: float, now_s: float
    ) -> list[do.Action]:
        return self._do("request", now_s, key, (deadline_s - now_s) * 1000, name, data)

    def join(self, key: Hashable, room: str, deadline_s: float, now_s: float) -> list[do.Action]:
        return self._do("move", now_s, key, (deadline_s - now_s) * 1000, "join", room)

    def leave(self, key: Hashable, room: str, deadline_s: float, now_s: float) -> list[do.Action]:
        return self._do("move", now_s, key, (deadline_s - now_s) * 1000, "leave", room)


def _sent(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _data(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) and "hex" in value else value


def _error(value: dict[str, Any] | None) -> errors.StabilizerClientError | None:
    if value is None:
        return None
    if value["error"] == "bug":
        raise RuntimeError(value["stack"])
    kind = ERRORS.get(value["error"])
    return (
        errors.RequestFailedError(value["error"], value["message"])
        if kind is None
        else kind(value["message"])
    )


def _status(change: dict[str, Any]) -> do.StatusChanged:
    old, new = Status(change["from"]), Status(change["to"])
    retry_in_s = None if change["retryIn"] is None else change["retryIn"] / 1000
    error = cast("errors.ClosedError | None", _error(change["error"]))
    code = change["closeCode"] or None
    return do.StatusChanged(
        StatusChange(old, new, change["cause"], code, change["attempt"], retry_in_s, error)
    )


_ACTIONS: dict[str, Callable[..., do.Action]] = {
    "authorize": do.Authorize,
    "dial": lambda generation, items: do.Dial(generation, tuple(items)),
    "send": lambda generation, frame: do.Send(generation, _data(frame)),
    "close": do.Close,
    "message": lambda log, id_, data: do.Deliver(Message(log, id_, _data(data))),
    "lost": lambda log, top, code: do.Deliver(Lost(log, top, code)),
    "settle": lambda key, error, value: do.Settle(key, value, _error(error)),
    "asked": lambda generation, number, name, data: do.Asked(generation, frames.Request(number, name, data)),
    "unasked": do.Unasked,
    "room": lambda room, is_member, error: do.RoomChanged(room, is_member, _error(error)),
    "presence": lambda room, members: do.PresenceChanged(room, dict(members["map"])),
    "status": _status,
}


def _action(name: str, *values: Any) -> do.Action:
    return _ACTIONS[name](*values)
