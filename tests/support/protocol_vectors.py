"""The vectors in ``protocol/vectors``, which the clients read as well."""

import json
from pathlib import Path
from typing import Any

import pytest

DIRECTORY = Path(__file__).parents[2] / "protocol" / "vectors"


def vectors(file: str, *, having: str = "name") -> list[Any]:
    """Return the vectors of a file that have this key, as parameters of a test."""
    rows = json.loads((DIRECTORY / file).read_text())
    return [pytest.param(row, id=row["name"]) for row in rows if having in row]


def data_of(vector: dict[str, Any]) -> str | bytes:
    """Return the text or the bytes that a vector is about. Long ones are given in parts that repeat."""
    if "hex" in vector:
        return bytes.fromhex(vector["hex"])
    if "parts" in vector:
        return "".join(text * times for text, times in vector["parts"])
    return str(vector["text"])
