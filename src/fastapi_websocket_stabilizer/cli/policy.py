"""``stabilizer policy``: shows which messages a registry stores, and lets the next replica decide anew."""

from dataclasses import replace

from ..backends.policies import Policy
from ..backends.redis.keys import Keys
from ..backends.redis.publisher import Publisher
from ..config import WebSocketConfig
from ..exceptions import ConfigurationError


class Clerk(Publisher):
    """A publisher that reads and opens the policy, also one that no publisher can read."""

    def __init__(self, config: WebSocketConfig) -> None:
        if config.redis_url is None:
            raise ConfigurationError("no Redis URL: give --redis-url, or set WS_REDIS_URL")
        super().__init__(config.redis_url, namespace=config.namespace, timeout_s=config.redis_timeout_s)
        self._key = Keys(config.namespace).policy

    async def _ask_policy(self) -> None:
        self._known.keep()

    async def policy(self) -> str:
        """Return the text that the registry has; "" if it has none."""
        found: bytes | None = await self._pipeline.send("GET", self._key, idempotent=True)
        return (found or b"").decode(errors="replace")

    async def open(self, text: str) -> None:
        """Let the next replica that starts set its own policy. Until then, publishers go on with this one."""
        await self._pipeline.send("SET", self._key, _opened(text).text, idempotent=True)


def _opened(text: str) -> Policy:
    try:
        return replace(Policy.read(text), is_open=True)
    except ConfigurationError:  # publishers cannot read it either, and raise
        return Policy(is_open=True)


async def run_policy(config: WebSocketConfig, *, resets: bool) -> str:
    """Return a sentence about the policy, and open it if asked to.

    Raises:
        ConfigurationError: There is no URL, or the stored policy cannot be read and is not reset.
        BackendUnavailableError: Redis did not answer.
    """
    async with Clerk(config) as clerk:
        text = await clerk.policy()
        if resets:
            await clerk.open(text)
        found = _opened(text) if resets else Policy.read(text)
        then = "; the next replica that starts decides anew" if found.is_open else ""
        return f"namespace {config.namespace!r} stores {found.stored}{then}"
