"""``python -m fastapi_websocket_stabilizer.observe`` prints a part of the documentation as Markdown.

It is the table of metrics, or with the argument ``rules`` the sections of the run book.
"""

import sys

from . import catalog, rules

sys.stdout.write(rules.as_markdown() if sys.argv[1:] == ["rules"] else catalog.as_markdown())
