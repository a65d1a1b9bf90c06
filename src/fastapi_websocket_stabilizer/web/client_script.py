"""``GET /stabilizer/client.js``: the JavaScript client for pages without a build step."""

import re
from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response

from ..__about__ import __version__

MODULES = ("errors", "numbers", "frames", "machine", "client")
"""In the order in which they need one another."""
_PACKAGED = Path(__file__).parent / "client"
_SOURCES = Path(__file__).parents[3] / "clients" / "javascript" / "src"
"""Where the modules are in a checkout, from which the wheel is built."""


def add_client_script_route(router: APIRouter) -> None:
    """Add the route. A cache has to ask each time, and is told in a few bytes that nothing has changed."""

    @router.get("/stabilizer/client.js", include_in_schema=False)
    async def client_script(request: Request) -> Response:
        script, tag = _script()
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(script, media_type="text/javascript; charset=utf-8", headers=headers)


@cache
def _script() -> tuple[bytes, str]:
    """Return the modules as one, and its tag.

    During a deploy, replicas of two releases answer. A page that got some modules from each would break.
    """
    directory = _PACKAGED if _PACKAGED.is_dir() else _SOURCES
    *parts, last = ((directory / f"{name}.js").read_text() for name in MODULES)
    joined = "".join(
        re.sub(r"^export (?=const|function|class)", "", part, flags=re.MULTILINE) for part in parts
    )
    script = re.sub(r'^import \{.*\} from "\./\w+\.js";\n', "", joined + last, flags=re.MULTILINE).encode()
    return script, f'"{__version__}-{sha256(script).hexdigest()[:16]}"'
