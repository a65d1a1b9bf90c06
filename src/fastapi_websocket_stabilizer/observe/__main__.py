"""``python -m fastapi_websocket_stabilizer.observe`` prints the table of metrics as Markdown."""

import sys

from .catalog import as_markdown

sys.stdout.write(as_markdown())
