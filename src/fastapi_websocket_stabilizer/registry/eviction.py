"""How many bytes connections' metadata and user data take, and whose turn it is to give way. Pure."""

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
    """Whose turn it is to give way, without a walk over all connections at each question.

    A sorted snapshot serves many questions: whoever was used (or came) after it was taken is younger than
    all who were not, so only when the snapshot is used up a new one is needed.
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
        """Return the live connection with the smallest ``age``, the first of equals; None when there is none.

        ``keep`` is passed over this time.
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
            self._snapshot += kept  # it is older than all that are left
