"""``stabilizer policy``: shows which messages a registry stores, and lets the next replica decide anew."""

from ..backends.policies import Policy
from ..backends.redis.keys import Keys
from ..backends.redis.publisher import Publisher
from ..config import WebSocketConfig
from ..exceptions import ConfigurationError


class Clerk(Publisher):
    """A publisher that can also read and reset the policy."""

    def __init__(self, config: WebSocketConfig) -> None:
        if config.redis_url is None:
            raise ConfigurationError("no Redis URL: give --redis-url, or set WS_REDIS_URL")
        super().__init__(config.redis_url, namespace=config.namespace, timeout_s=config.redis_timeout_s)
        self._key = Keys(config.namespace).policy

    async def policy(self) -> str:
        """Return the text that the registry has; "" if it has none."""
        await self._start()
        found: bytes | None = await self._pipeline.send("GET", self._key, idempotent=True)
        return (found or b"").decode(errors="replace")

    async def reset(self) -> None:
        """Remove the policy. The next replica that starts sets its own."""
        await self._start()
        await self._pipeline.send("SET", self._key, "", idempotent=True)


async def run_policy(config: WebSocketConfig, *, resets: bool) -> str:
    """Return a sentence about the policy, and reset it if asked to.

    Raises:
        ConfigurationError: There is no URL, or the stored policy cannot be read and is not reset.
        BackendUnavailableError: Redis did not answer.
    """
    async with Clerk(config) as clerk:
        text = await clerk.policy()
        if not resets:
            return f"namespace {config.namespace!r} stores {Policy.read(text).stored}"
        await clerk.reset()
        return f"namespace {config.namespace!r}: the next replica that starts decides what is stored (was: {text})"
