"""Reconnect tokens: ``<expiry>.<key id><nonce>.<client id>.<signature>``, four parts as in release 1.1.

The record in the store decides whether a token is valid. The signature keeps guesses away from the store, and the
signed expiry selects the class of the error. A token that expired long ago by this node's clock is refused even with
a record. The reason is that the clock of the store may have been stepped back.
"""

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ..exceptions import InvalidTokenError, TokenExpiredError
from ..names import MAX_NAME_BYTES

PATTERN = re.compile(r"\d{10,}D[0-9a-f]{40}D[\w-]*D[0-9a-f]{64}".replace("D", r"(?:\.|%2[eE])"))
"""Pattern of a token in a URL or any other text."""
KEY_ID_LENGTH = 8
CLOCKS_DIFFER = timedelta(minutes=1)
"""Tolerated difference between the clocks of two machines. One that is further ahead refuses valid tokens."""
MAX_TOKEN_LENGTH = 256 + MAX_NAME_BYTES * 4 // 3


@dataclass(frozen=True, slots=True)
class Ticket:
    """The content of a token with a valid signature.

    Attributes:
        digest: Name of the record of the token. The token itself is not stored.
        expired: Time since its expiry by this node's clock; negative before the expiry.
    """

    client_id: str
    digest: str
    expired: timedelta

    @property
    def is_long_past(self) -> bool:
        """Whether the token has expired even if the clock of its issuer differs by ``CLOCKS_DIFFER``."""
        return self.expired > CLOCKS_DIFFER

    def unredeemed(self) -> Exception:
        """Return the error for a token that the store has no record of."""
        if self.expired >= timedelta(0):
            return TokenExpiredError("reconnect token has expired; let the client sign in again")
        return InvalidTokenError("reconnect token was already used, or its record is gone")


class TokenSigner:
    """Signer and reader of the tokens of one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        # The key id distinguishes a token of another secret from an altered one, also while secrets are rotated.
        self._key_id = hashlib.sha256(b"key id " + secret).hexdigest()[:KEY_ID_LENGTH]

    def sign(self, client_id: str, ttl: timedelta) -> tuple[str, str]:
        """Return a token for ``client_id`` and the digest that names its record."""
        expiry_ms = int((datetime.now(UTC) + ttl).timestamp() * 1000)
        name = urlsafe_b64encode(client_id.encode()).decode().rstrip("=")
        body = f"{expiry_ms}.{self._key_id}{secrets.token_hex(16)}.{name}"
        token = f"{body}.{self._signature(body)}"
        return token, _digest(token)

    def read(self, token: object) -> Ticket:
        """Return the content of a token, without a request to the store.

        Raises:
            InvalidTokenError: The token is malformed, was altered, or was signed with another secret.
        """
        if not isinstance(token, str) or len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise InvalidTokenError("reconnect token is not a token of this library")
        body, _, signature = token.rpartition(".")
        parts = body.split(".")
        if len(parts) != 3:
            raise InvalidTokenError("reconnect token does not have four parts")
        if not hmac.compare_digest(signature, self._signature(body)):
            known = parts[1].startswith(self._key_id)
            raise InvalidTokenError(
                "reconnect token was altered" if known else "reconnect token was signed with another secret"
            )
        expired = datetime.now(UTC) - datetime.fromtimestamp(int(parts[0]) / 1000, UTC)
        name = parts[2] + "=" * (-len(parts[2]) % 4)
        return Ticket(urlsafe_b64decode(name).decode(), _digest(token), expired)

    def _signature(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), "sha256").hexdigest()


def sha1(secret: bytes) -> str:
    """Return the SHA-1 of the secret in hex, as Redis computes it, or "" for no secret."""
    return hashlib.sha1(secret, usedforsecurity=False).hexdigest() if secret else ""


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:32]
