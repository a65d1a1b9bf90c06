"""Child processes of ``fastapi_websocket_stabilizer.testing``, under the name that the tests import."""

from fastapi_websocket_stabilizer.testing.process import STOP_TIMEOUT_S, ChildProcess, free_port

__all__ = ["STOP_TIMEOUT_S", "ChildProcess", "free_port"]
