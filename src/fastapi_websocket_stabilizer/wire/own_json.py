"""JSON of this node: of messages, metadata and frames. ``foreign_json`` reads that of clients."""

from pydantic_core import PydanticSerializationError, to_json

from ..exceptions import MessageError


def encode_json(value: object, what: str) -> bytes:
    """Return ``value`` as JSON. Accepts datetimes, UUIDs, enums, dataclasses and pydantic models; NaN becomes null.

    Raises:
        MessageError: ``value`` cannot be encoded; the message begins with ``what``.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise MessageError(f"{what} cannot be encoded as JSON: {error}") from None
