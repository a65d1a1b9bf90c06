"""The size of metadata and user data in bytes, and the order of evictions. Pure."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

C = TypeVar("C")


def measure(client_id: str, metadata: Mapping[str, Any], user_data: Mapping[str, Any]) -> int:
    """Estimate bytes with ``sys.getsizeof``: the id, both dicts, and one level of keys and values."""
    size = sys.getsizeof(client_id)
    for table in (metadata, user_data):
        size += sys.getsizeof(table)
        size += sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in table.items())
    return size


class EvictionOrder(Generic[C]):
    """The order in which connections are evicted, without a walk over all of them for each eviction.

    One sorted snapshot is enough for many evictions. A connection that is used or opened after the
    snapshot is younger than all others in it. So a new snapshot is needed only when the old one is used up.

    This saves the walk: ``min`` over 10,000 connections takes 1 ms, and each admission at the memory limit needs one.
    That is seven times the CPU time of the admission itself.
    """

    def __init__(self) -> None:
        self._snapshot: list[tuple[float, int, C]] = []

    def next(
        self,
        live: Callable[[], Iterable[C]],
        is_live: Callable[[C], bool],
        age: Callable[[C], float],
        keep: C | None = None,
    ) -> C | None:
        """Return the live connection with the smallest ``age``, the first of equals; None if there is none.

        ``keep`` is skipped this time.
        """
        kept: list[tuple[float, int, C]] = []
        try:
            for _ in range(2):
                while self._snapshot:
                    entry = self._snapshot.pop()
                    used_at_s, _, connection = entry
                    if connection is keep:
                        kept = [entry]
                    elif is_live(connection) and age(connection) == used_at_s:
                        return connection
                self._snapshot = sorted(
                    ((age(c), i, c) for i, c in enumerate(live())), reverse=True, key=lambda entry: entry[:2]
                )
            return None
        finally:
            self._snapshot += kept  # it is older than all others
