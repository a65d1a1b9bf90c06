"""Sending from a process that serves no sockets: a worker, a cron job, a shell."""

from .backends.redis.publishers import Publisher, SyncPublisher

__all__ = ["Publisher", "SyncPublisher"]
