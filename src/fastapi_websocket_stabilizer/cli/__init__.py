"""The command line, ``stabilizer``. Needs the extra ``cli``; ``stabilizer demo`` needs ``demo``."""

from .program import app as app  # first, because it says what to install

# isort: split
from . import commands as commands
from . import operating as operating
