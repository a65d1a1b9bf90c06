"""The script that a page imports without a build step, and the tag by which caches know it."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_websocket_stabilizer import WebSocketConnectionManager, __version__
from fastapi_websocket_stabilizer.web import client_script

PATH = "/stabilizer/client.js"


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(WebSocketConnectionManager().router)
    return TestClient(app)


def test_tag_has_the_release_and_changes_with_the_script(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = client.get(PATH).headers["etag"]
    assert tag.startswith(f'"{__version__}-')
    monkeypatch.setattr(client_script, "MODULES", ("errors", "numbers"))
    client_script._script.cache_clear()
    try:
        other = client.get(PATH).headers["etag"]
    finally:
        client_script._script.cache_clear()
    assert other != tag
    assert other.startswith(f'"{__version__}-')


@pytest.mark.parametrize("form", ["{}", 'W/"other", {}', "W/{}"])
def test_cache_that_has_the_script_gets_nothing(client: TestClient, form: str) -> None:
    tag = client.get(PATH).headers["etag"]
    again = client.get(PATH, headers={"If-None-Match": form.format(tag)})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


def test_cache_that_has_the_script_of_another_release_gets_this_one(client: TestClient) -> None:
    tag = client.get(PATH).headers["etag"]
    answer = client.get(PATH, headers={"If-None-Match": tag.replace(__version__, "1.9.9")})
    assert (answer.status_code, answer.headers["etag"]) == (200, tag)
    assert "export function connect" in answer.text
