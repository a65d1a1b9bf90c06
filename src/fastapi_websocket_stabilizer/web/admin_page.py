"""The page of the admin routes: three files without a build step, which load nothing else."""

from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from .access import Access

DIRECTORY = Path(__file__).parent / "static"
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "admin.css": "text/css; charset=utf-8",
    "admin.js": "text/javascript; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page_routes(router: APIRouter, access: Access) -> None:
    """Add the page. A cache has to ask each time, and is told in a few bytes that nothing has changed."""
    may_load = [Depends(access.check_page)]

    @router.get("", include_in_schema=False, dependencies=may_load)
    async def page_without_slash(request: Request) -> Response:
        # Relative, so that it holds behind a proxy that has removed a prefix of the path.
        return RedirectResponse(f"{request.url.path.rpartition('/')[2]}/", 307)

    @router.get("/", include_in_schema=False, dependencies=may_load)
    async def page(request: Request) -> Response:
        return _file("index.html", request)

    @router.get("/{name}.{kind}", include_in_schema=False, dependencies=may_load)
    async def file(name: str, kind: str, request: Request) -> Response:
        return _file(f"{name}.{kind}", request)


def _file(name: str, request: Request) -> Response:
    if name not in TYPES:
        return Response(status_code=404)
    content, tag = _content(name)
    headers = {**HEADERS, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=TYPES[name])


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (DIRECTORY / name).read_bytes()
    return content, f'"{sha256(content).hexdigest()[:16]}"'
