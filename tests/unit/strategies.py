"""Inputs that several property tests draw from."""

from hypothesis import strategies as st

from fastapi_websocket_stabilizer.names import MAX_NAME_BYTES

_characters = st.characters(exclude_categories=("Cc", "Cs"))
_awkward = st.sampled_from(
    ["a.b", "{x}", "a:b", "*", " ", "..", "{0a}:client:x", "ü", "名前", "a" * MAX_NAME_BYTES]
)

legal_names = _awkward | st.text(_characters, min_size=1, max_size=200).filter(
    lambda name: len(name.encode()) <= MAX_NAME_BYTES
)
