"""``stabilizer kick``: disconnects a client."""

from .. import close_codes
from ..config import WebSocketConfig
from .operator import Operator


async def run_kick(
    config: WebSocketConfig, client_id: str, code: int, reason: str, connection_id: str | None
) -> int:
    """Have a node disconnect a client, or one connection of it; return the number of closed connections.

    Raises:
        ConfigurationError: ``code`` may not be sent.
        RemoteError: No node did it.
        BackendUnavailableError: Redis did not answer.
    """
    close_codes.check(code)
    async with Operator(config) as operator:
        return await operator.disconnect(client_id, code, reason, connection_id)
