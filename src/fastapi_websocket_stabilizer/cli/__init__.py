"""The command line, ``stabilizer``. Needs the extra ``cli``; ``stabilizer demo`` needs ``demo``."""

from .commands import app as app
