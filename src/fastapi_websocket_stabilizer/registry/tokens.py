"""Reconnect tokens of one registry, which any node redeems once."""

import asyncio
import secrets
import threading
from collections import OrderedDict
from datetime import timedelta

from ..exceptions import ConfigurationError, NotStartedError
from ..names import check_client_id
from ..runtime.loops import running_loop
from ..wire.tokens import CLOCKS_DIFFER, Ticket, TokenSigner, sha1
from .state import NodeState

MAX_REDEEMED = 100_000
"""Maximum number of remembered redeemed tokens, about 300 bytes each. The oldest is evicted first."""
REVOKED_AT_ONCE = 500
"""Maximum number of concurrent revocations."""
LONGEST_TTL = timedelta(days=36500)
"""Maximum lifetime that a date in a token and an expiry in Redis can express."""


class Tokens:
    """Issues and redeems tokens. The secret is configured, or shared through the store."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        secret = state.config.token_secret
        self._is_shared = state.is_distributed and secret is None
        self._secret = secret.encode() if secret else secrets.token_bytes(32)
        self._signer = None if self._is_shared else TokenSigner(self._secret)
        # Digest -> client, and the monotonic time until which the token can be redeemed.
        self._redeemed: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def share_secret(self) -> None:
        """Agree with the other nodes on a secret, and store it again if the store lost it."""
        if self._is_shared:
            self._secret = await self._state.backend.tokens.share_secret(self._secret)
            self._signer = TokenSigner(self._secret)

    def is_shared_as(self, found: str) -> bool:
        """Whether the store has our secret; ``found`` is the SHA-1 of the stored one."""
        return not self._is_shared or sha1(self._secret) == found

    def sign(self, client_id: str) -> tuple[str, str, int]:
        """Return a token, its digest and its lifetime in ms.

        Raises:
            ConfigurationError: ``enable_reconnect`` is False.
            NotStartedError: ``start()`` was not called, so the secret is unknown.
        """
        signer = self._ready()
        ttl = min(self._state.config.reconnect_token_ttl, LONGEST_TTL)
        token, digest = signer.sign(check_client_id(client_id), ttl)
        self._state.counters.tokens_issued += 1
        return token, digest, max(1, int(ttl.total_seconds() * 1000))

    async def issue(self, client_id: str) -> str:
        """Return a token with a record in the store."""
        token, digest, ttl_ms = self.sign(client_id)
        await self._state.backend.tokens.issue(digest, client_id, ttl_ms)
        return token

    def issue_now(self, client_id: str) -> str:
        """Return a token, and store its record in the background.

        Raises:
            BackendUnavailableError: Redis did not answer the last beat.
        """
        self._state.check_reachable()
        token, digest, ttl_ms = self.sign(client_id)
        record, loop = self._state.backend.tokens.issue_now, self._state.loop
        if loop is None or threading.get_ident() == self._state.thread:
            record(digest, client_id, ttl_ms)
        else:  # a `def` endpoint runs in a thread
            loop.call_soon_threadsafe(record, digest, client_id, ttl_ms)
        return token

    async def redeem(self, token: str) -> str:
        """Return the client id, once.

        Raises:
            TokenExpiredError: The token is authentic, but has expired.
            InvalidTokenError: The token was altered, was redeemed before, or is of another registry.
        """
        ticket = self._ready().read(token)
        if self._state.is_distributed and ticket.is_long_past:
            raise ticket.unredeemed()
        if ticket.digest in self._redeemed:  # Redis may have been restored from an older snapshot
            raise ticket.unredeemed()
        if not await self._state.backend.tokens.redeem(ticket.digest, ticket.client_id):
            raise ticket.unredeemed()
        self._state.counters.tokens_redeemed += 1
        if self._state.is_distributed:
            self._remember(ticket)
        return ticket.client_id

    def _remember(self, ticket: Ticket) -> None:
        now_s, redeemed = running_loop().time(), self._redeemed
        while redeemed and next(iter(redeemed.values()))[1] < now_s:
            redeemed.popitem(last=False)
        lasts_s = (CLOCKS_DIFFER - ticket.expired).total_seconds()
        redeemed[ticket.digest] = ticket.client_id, now_s + lasts_s
        if len(redeemed) > MAX_REDEEMED:
            redeemed.popitem(last=False)
            self._state.counters.redemptions_forgotten += 1

    async def revoke_redeemed(self) -> None:
        """Remove the records of redeemed tokens again, because a restored or promoted Redis may have them."""
        redeemed = [(digest, client_id) for digest, (client_id, _) in self._redeemed.items()]
        for start in range(0, len(redeemed), REVOKED_AT_ONCE):
            some = redeemed[start : start + REVOKED_AT_ONCE]
            await asyncio.gather(*(self._state.backend.tokens.revoke(*each) for each in some))

    def _ready(self) -> TokenSigner:
        if not self._state.config.enable_reconnect:
            raise ConfigurationError("enable_reconnect is False: reconnect tokens are switched off")
        if self._signer is None:
            self._state.check_reachable()
            raise NotStartedError("redis_url is set: await manager.start() before tokens are made or read")
        return self._signer
