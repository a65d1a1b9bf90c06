"""``python -m fastapi_websocket_stabilizer.cli``: the same as ``stabilizer``."""

from . import app

app()
