"""Requests to an application on the event loop of the test, where its managers are."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI


@dataclass(slots=True)
class Answer:
    """A response."""

    status: int
    content_type: str
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(slots=True)
class Caller:
    """A client of an application, on this machine."""

    app: FastAPI
    prefix: str
    headers: dict[str, str]

    async def get(self, path: str) -> Answer:
        return await self._call("GET", path, b"")

    async def post(self, path: str, body: Any) -> Answer:
        return await self._call("POST", path, json.dumps(body).encode())

    async def read(self, path: str) -> Any:
        """Return the JSON of a request that must succeed."""
        answer = await self.get(path)
        assert answer.status == 200, answer.text
        return answer.json()

    async def _call(self, method: str, path: str, body: bytes) -> Answer:
        path, _, query = path.partition("?")
        headers = {"host": "localhost", "content-type": "application/json", **self.headers}
        sent: list[Any] = []
        received = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return received.pop() if received else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
            "method": method, "scheme": "http", "path": self.prefix + unquote(path), "query_string": query.encode(),
            "raw_path": (self.prefix + path).encode(), "root_path": "", "client": ("127.0.0.1", 4711),
            "server": ("127.0.0.1", 80), "state": {},
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        await self.app(scope, receive, send)
        start, *parts = sent
        kinds = dict(start["headers"])
        text = b"".join(part.get("body", b"") for part in parts).decode()
        return Answer(start["status"], kinds[b"content-type"].decode(), text)
