"""Handlers of the application for one room, or for the logs that have no room."""

from collections.abc import Awaitable, Callable
from typing import Any

from .errors import StabilizerClientError
from .messages import Lost, Members, Message

MessageHandler = Callable[[Message], Awaitable[None] | None]
LostHandler = Callable[[Lost], Awaitable[None] | None]
MembersHandler = Callable[[Members], Awaitable[None] | None]
LeftHandler = Callable[[StabilizerClientError | None], Awaitable[None] | None]


class Handlers:
    """Handlers for messages and losses. They are called one after the other, in the order of arrival."""

    def __init__(self) -> None:
        self.messages: list[MessageHandler] = []
        self.losses: list[LostHandler] = []

    def on(self, handler: MessageHandler) -> MessageHandler:
        """Call a function with each message. Iterating over the client then leaves them out."""
        self.messages.append(handler)
        return handler

    def on_lost(self, handler: LostHandler) -> LostHandler:
        """Call a function when messages are missing. Later messages wait until it has returned.

        It needs a handler of ``on``: without one, iterating over the client yields messages and losses.
        """
        self.losses.append(handler)
        return handler

    def off(self, handler: Callable[..., Any]) -> None:
        """Do not call a function any more, whatever it handles. Events that wait for it still reach it."""
        for handlers in self._kinds():
            handlers[:] = [each for each in handlers if each != handler]

    def _kinds(self) -> list[list[Any]]:
        return [self.messages, self.losses]


class Room(Handlers):
    """Handlers for a room.

    Attributes:
        name: The room.
        members: Metadata by client id, if ``on_presence`` has a handler and the list has come.
    """

    def __init__(self, name: str, watch: Callable[[str], None], unwatch: Callable[[str], None]) -> None:
        super().__init__()
        self.name = name
        self.members: Members = {}
        self.presences: list[MembersHandler] = []
        self.leaves: list[LeftHandler] = []
        self._watch, self._unwatch = watch, unwatch

    def on_presence(self, handler: MembersHandler) -> MembersHandler:
        """Call a function with all members whenever they change, and ask the server for them."""
        self.presences.append(handler)
        self._watch(self.name)
        return handler

    def on_left(self, handler: LeftHandler) -> LeftHandler:
        """Call a function when the connection has left the room, with the error if it could not join again."""
        self.leaves.append(handler)
        return handler

    def off(self, handler: Callable[..., Any]) -> None:
        """Do not call a function any more. Members are not asked for without a handler of ``on_presence``."""
        had_members = bool(self.presences)
        super().off(handler)
        if had_members and not self.presences:
            self.members = {}
            self._unwatch(self.name)

    def _kinds(self) -> list[list[Any]]:
        return [*super()._kinds(), self.presences, self.leaves]
