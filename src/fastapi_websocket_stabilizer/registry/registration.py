"""The registry's record of a connection, which the connection carries without reading it."""

from ..local.connection import Connection


class Registration:
    """Rank, visit, stays and size of one connection.

    Attributes:
        stamp: Rank that the store gave to the claim; 0 until the store has answered.
        visit: The client's visit that the store has confirmed; "" if unknown. See ``ports.Claimed``.
        stays: Number of the present stay in each room. See ``ports.IndexEntry``.
        entered: Name of the stay in each room that the store has confirmed.
        size: Bytes of metadata and user data, as counted in the budget of memory.
    """

    __slots__ = ("entered", "size", "stamp", "stays", "visit")

    def __init__(self, size: int) -> None:
        self.stamp: int = 0
        self.visit: str = ""
        self.stays: dict[str, int] = {}
        self.entered: dict[str, str] = {}
        self.size: int = size

    def forget_visit(self) -> None:
        """Forget all that the store has confirmed, except the rank."""
        self.visit = ""
        self.entered.clear()


def registration_of(connection: Connection) -> Registration:
    """Return the record that ``Connections.connect`` has given to a connection."""
    record = connection.registration
    assert isinstance(record, Registration)  # the registry creates all connections
    return record
