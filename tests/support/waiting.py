"""Waiting for conditions, from ``fastapi_websocket_stabilizer.testing``."""

from fastapi_websocket_stabilizer.testing.waiting import POLL_INTERVAL_S, eventually, eventually_sync

__all__ = ["POLL_INTERVAL_S", "eventually", "eventually_sync"]
