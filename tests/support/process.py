"""Child processes: those of ``fastapi_websocket_stabilizer.testing``."""

from fastapi_websocket_stabilizer.testing.process import STOP_TIMEOUT_S, ChildProcess, free_port

__all__ = ["STOP_TIMEOUT_S", "ChildProcess", "free_port"]
