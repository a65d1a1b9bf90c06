"""The proxy of ``fastapi_websocket_stabilizer.testing``."""

from fastapi_websocket_stabilizer.testing.proxy import TcpProxy

__all__ = ["TcpProxy"]
