"""Has a primary of a cluster been emptied? Each beat it is asked for a key of ours that never ends.

The primary of ``{nodes}`` says so with each renewal; leases say nothing about the others.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from functools import partial

from . import scripts
from .duties import Commands
from .keys import Keys


class Epochs:
    """Watches the content of servers: one key of each, which whoever misses it puts there anew."""

    def __init__(self, keys: Keys, commands: Commands, tags: Callable[[], Iterable[str]]) -> None:
        self._keys, self._commands, self._tags = keys, commands, tags
        self._seen: dict[str, bytes] = {}  # at most one for each partition
        self.changes: int = 0
        """How often some server had another content than before."""

    def look(self) -> None:
        """Look at each server: before anything else is written there, and at each beat; known at the next."""
        for tag in self._tags():
            key = self._keys.epoch_of(tag)
            reply = self._commands.call(scripts.AGREE, [key], secrets.token_hex(8), idempotent=True)
            reply.add_done_callback(partial(self._found, tag))

    def _found(self, tag: str, reply: "asyncio.Future[bytes]") -> None:
        if reply.cancelled() or reply.exception() is not None:
            return  # asked again at the next beat
        epoch = reply.result()
        self.changes += self._seen.setdefault(tag, epoch) != epoch
        self._seen[tag] = epoch
