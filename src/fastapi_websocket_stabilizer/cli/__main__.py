"""Entry point of ``python -m fastapi_websocket_stabilizer.cli``, an alias of ``stabilizer``."""

from . import app

app()
