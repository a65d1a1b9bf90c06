"""Waiting for conditions, from ``fastapi_websocket_stabilizer.testing``."""

from fastapi_websocket_stabilizer.testing.waiting import eventually, eventually_sync

__all__ = ["eventually", "eventually_sync"]
