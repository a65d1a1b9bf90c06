"""The backend for Redis or Valkey, 6.2 or newer. Only this package imports ``redis``."""

from .backend import RedisBackend

__all__ = ["RedisBackend"]
