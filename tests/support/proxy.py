"""The proxy of ``fastapi_websocket_stabilizer.testing``, under the name that the tests import."""

from fastapi_websocket_stabilizer.testing.proxy import TcpProxy

__all__ = ["TcpProxy"]
