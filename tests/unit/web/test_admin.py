"""The admin routes: who may look and act, what they answer, and that no secret is in any answer."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    Identity,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.web.access import ALL_FAILURES, FAILURES, KNOWN, Failures
from fastapi_websocket_stabilizer.web.admin import Action
from fastapi_websocket_stabilizer.web.problems import MAX_BODY_BYTES

SECRET = "a secret of the operators"
AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}
ACTING = {"X-Stabilizer": "1"}
ACTIONS: tuple[Action, ...] = ("kick", "drain", "broadcast")
READS = ["overview", "nodes", "connections", "rooms", "rooms/lobby", "closed", "clients/ada", "config"]
ROOT = "/stabilizer/admin"


class From:
    """Requests from an address."""

    def __init__(self, app: ASGIApp, address: str) -> None:
        self._app, self._address = app, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope["client"] = (self._address, 4711)
        await self._app(scope, receive, send)


def manager(**settings: Any) -> WebSocketConnectionManager:
    return WebSocketConnectionManager(WebSocketConfig(log_level="CRITICAL", **settings))


def app_of(node: WebSocketConnectionManager, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=node.lifespan)
    app.include_router(node.admin_router(**options))

    @node.websocket(app, "/ws/{client_id}")
    async def identify(client_id: str) -> Identity:
        return Identity(client_id, rooms=["lobby"])

    return app


def client_of(
    node: WebSocketConnectionManager, address: str = "127.0.0.1", host: str = "localhost:8000", **options: Any
) -> TestClient:
    return TestClient(From(app_of(node, **options), address), base_url=f"http://{host}")


@contextmanager
def served(node: WebSocketConnectionManager, **options: Any) -> Iterator[TestClient]:
    """Serve the routes, with the client ``ada`` connected."""
    with client_of(node, **options) as client, client.websocket_connect("/ws/ada"):
        client.headers.update(AUTHORIZED | ACTING)
        yield client


# Who may look


@pytest.mark.parametrize(
    ("address", "host", "headers", "status"),
    [
        ("127.0.0.1", "localhost", {}, 200),
        ("127.0.0.1", "127.0.0.1:8000", {}, 200),
        ("::1", "[::1]:8000", {}, 200),
        ("127.0.0.1", "evil.example", {}, 403),
        ("127.0.0.1", "localhost.evil.example:8000", {}, 403),
        ("203.0.113.7", "localhost", {}, 403),
        ("127.0.0.1", "localhost", {"X-Forwarded-For": "127.0.0.1"}, 403),
        ("127.0.0.1", "localhost", {"Forwarded": "for=127.0.0.1"}, 403),
        ("127.0.0.1", "localhost", {"X-Forwarded-Proto": "https"}, 403),
        ("127.0.0.1", "localhost", {"CF-Connecting-IP": "203.0.113.7"}, 403),
        ("127.0.0.1", "localhost", {"Connection": "close"}, 403),
        ("127.0.0.1", "localhost", {"Connection": "keep-alive"}, 200),
        ("127.0.0.1", "[::1", {}, 200),
        ("127.0.0.1", "::1", {}, 200),
        ("127.0.0.1", "localhost:8000:1", {}, 403),
        ("127.0.0.1", "", {}, 403),
    ],
)
def test_without_a_secret_only_this_machine_may_look(
    address: str, host: str, headers: dict[str, str], status: int
) -> None:
    client = client_of(manager(), address)
    for path in (f"{ROOT}/", f"{ROOT}/admin.js", f"{ROOT}/api/overview", f"{ROOT}/api/config"):
        assert client.get(path, headers={"Host": host, **headers}).status_code == status, path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost:8000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_page_of_another_site_cannot_read_what_this_machine_may(headers: dict[str, str], status: int) -> None:
    """An application may allow any origin to read its answers (CORS)."""
    client = client_of(manager())
    assert client.get(f"{ROOT}/api/connections", headers=headers).status_code == status


async def test_proxy_that_speaks_http_1_0_is_no_browser() -> None:
    app, status = app_of(manager()), list[int]()

    async def send(message: Any) -> None:
        status.append(message.get("status", 0))

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    for version in ("1.0", "1.1"):
        scope = {
            "type": "http", "http_version": version, "method": "GET", "path": f"{ROOT}/", "query_string": b"",
            "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
            "headers": [(b"host", b"localhost")],
        }  # fmt: skip
        await app(scope, receive, send)
    assert status[::2] == [403, 200]


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 403),
        ("Bearer wrong", 403),
        (f"Basic {SECRET}", 403),
        ("Bearer \xff", 403),
        (f"bearer {SECRET}", 200),
    ],
)
def test_secret_is_the_only_key(authorization: str, status: int) -> None:
    node = manager(admin_secret=SECRET)
    client = client_of(node, "203.0.113.7", "chat.example")
    headers = {b"Authorization": authorization.encode("latin-1"), b"X-Forwarded-For": b"203.0.113.9"}
    answer = client.get(f"{ROOT}/api/overview", headers=headers)
    assert answer.status_code == status
    assert node.statistics().counters["admin_refused"] == (status == 403)
    assert client.get(f"{ROOT}/").status_code == 200  # the page, which asks for the secret
    assert SECRET not in answer.text


def test_secret_in_the_address_is_no_key() -> None:
    client = client_of(manager(admin_secret=SECRET), "203.0.113.7")
    for query in ("admin_secret", "secret", "token", "access_token", "authorization"):
        assert client.get(f"{ROOT}/api/overview?{query}={SECRET}").status_code == 403


def test_secret_cannot_be_guessed_often() -> None:
    client = client_of(manager(admin_secret=SECRET))
    for number in range(FAILURES):
        headers = {"Authorization": f"Bearer {number}"}
        assert client.get(f"{ROOT}/api/overview", headers=headers).status_code == 403
    answer = client.get(f"{ROOT}/api/overview", headers=AUTHORIZED)
    assert (answer.status_code, "wait a minute" in answer.json()["detail"]) == (429, True)


def test_page_without_a_secret_yet_is_no_guess() -> None:
    client = client_of(manager(admin_secret=SECRET))
    for _ in range(2 * FAILURES):
        assert client.get(f"{ROOT}/api/overview").status_code == 403
    assert client.get(f"{ROOT}/api/overview", headers=AUTHORIZED).status_code == 200


def test_wrong_secrets_are_forgotten_after_a_minute_and_bounded() -> None:
    failures = Failures()
    for second in range(FAILURES):
        assert not failures.are_too_many("a", second)
        failures.add("a", second)
    assert failures.are_too_many("a", 59)
    assert not failures.are_too_many("b", 59)
    assert not failures.are_too_many("a", 61)
    for number in range(ALL_FAILURES):
        assert not failures.are_too_many(str(number), 100)
        failures.add(str(number), 100)
    assert failures.are_too_many("a stranger", 101)
    failures.passed("an operator")
    assert not failures.are_too_many("an operator", 101)
    assert not failures.are_too_many("a stranger", 161)
    for number in range(100):
        failures.passed(str(number))
    assert len(failures._known) == KNOWN


def test_dependencies_of_the_application_check_callers() -> None:
    async def signed_in(user: Annotated[str, Header()] = "") -> None:
        if user != "root":
            raise HTTPException(401, "sign in")

    client = client_of(manager(), "203.0.113.7", "chat.example", dependencies=[Depends(signed_in)])
    for path in ("/", "/api/overview"):
        assert client.get(ROOT + path).status_code == 401
        assert client.get(ROOT + path, headers={"user": "root"}).status_code == 200
    assert client.get(f"{ROOT}/api/overview").headers["content-type"] == "application/problem+json"


# Who may act


@pytest.mark.parametrize("actions", [[], ["kick"], ["drain"], ["broadcast"], [*ACTIONS]])
def test_only_the_actions_that_are_allowed_exist(actions: list[Action]) -> None:
    app = app_of(manager(admin_secret=SECRET), actions=actions, include_in_schema=True)
    paths = app.openapi()["paths"].items()
    posts = [path for path, methods in paths if path.startswith(ROOT) and set(methods) != {"get"}]
    words = {"kick": "disconnect", "drain": "drain", "broadcast": "broadcast"}
    assert sorted(path.rpartition("/")[2] for path in posts) == sorted(words[action] for action in actions)


def test_actions_need_a_secret_or_a_dependency() -> None:
    with pytest.raises(ConfigurationError, match="set admin_secret") as refused:
        manager().admin_router(actions=["kick"])
    assert refused.value.settings == ("admin_secret",)
    manager().admin_router(actions=["kick"], dependencies=[Depends(lambda: None)])


def test_unknown_action_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"actions are kick, drain, broadcast, got 'kil'"):
        manager(admin_secret=SECRET).admin_router(actions=["kil"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "application/json"}, "{}"),
        ({"Content-Type": "text/plain", "X-Stabilizer": "1"}, "{}"),
        ({"Content-Type": "application/x-www-form-urlencoded", "X-Stabilizer": "1"}, "code=4510"),
        ({"Content-Type": "application/json", "X-Stabilizer": "1", "Sec-Fetch-Site": "cross-site"}, "{}"),
        ({"Content-Type": "application/json", "X-Stabilizer": "1", "Sec-Fetch-Site": "same-site"}, "{}"),
    ],
)
def test_another_site_cannot_act_for_a_user(headers: dict[str, str], content: str) -> None:
    node = manager()
    client = client_of(node, actions=ACTIONS, dependencies=[Depends(lambda: None)])
    for path in ("clients/ada/disconnect", "nodes/x/drain", "broadcast"):
        answer = client.post(f"{ROOT}/api/{path}", headers=headers, content=content)
        assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert node.statistics().counters["admin_refused"] == 3


@pytest.mark.parametrize("headers", [{}, {**AUTHORIZED, **ACTING}])
async def test_body_is_read_after_the_check_and_up_to_a_bound(headers: dict[str, str]) -> None:
    """FastAPI reads a whole body before it asks dependencies."""
    app, read, answers = app_of(manager(admin_secret=SECRET), actions=ACTIONS), list[int](), list[int]()

    async def receive() -> Any:
        read.append(10_000)
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    async def send(message: Any) -> None:
        answers.append(message.get("status", 0))

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": f"{ROOT}/api/broadcast",
        "query_string": b"", "root_path": "", "scheme": "http", "client": ("203.0.113.7", 1),
        "server": ("127.0.0.1", 80),
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in {"content-type": "application/json", **headers}.items()
        ],
    }  # fmt: skip
    await app(scope, receive, send)
    assert answers[0] == (413 if headers else 403)
    assert sum(read) <= (MAX_BODY_BYTES + 10_000 if headers else 0)


@pytest.mark.parametrize("status", [418, 440, 498])
def test_status_of_a_dependency_stays_as_it_is(status: int) -> None:
    async def refuse() -> None:
        raise HTTPException(status, "no")

    answer = client_of(manager(), dependencies=[Depends(refuse)]).get(f"{ROOT}/api/overview")
    assert (answer.status_code, answer.json()["status"], answer.json()["detail"]) == (status, status, "no")


# What is shown


def test_every_read_answers_and_shows_no_secret() -> None:
    secrets = {
        "admin_secret": SECRET,
        "drain_secret": "a secret of deploys",
        "metrics_secret": "a secret of scrapers",
        "token_secret": "a secret of the tokens, which is long enough",
    }
    with served(manager(**secrets), include_in_schema=True) as client:
        for path in READS:
            answer = client.get(f"{ROOT}/api/{path}")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), path
            assert not [name for name, secret in secrets.items() if secret in answer.text], path
        settings = client.get(f"{ROOT}/api/config").json()["settings"]
        assert {name: settings[name] for name in secrets} == dict.fromkeys(secrets, "set")
        assert settings["envelope_keys"] is None
        assert set(settings) == set(WebSocketConfig.__dataclass_fields__)
        paths = client.get("/openapi.json").json()["paths"]
        assert {f"{ROOT}/api/overview", f"{ROOT}/api/clients/{{client_id}}"} <= set(paths)


def test_routes_are_not_in_the_schema_of_the_application_unless_asked_for() -> None:
    assert not client_of(manager()).get("/openapi.json").json()["paths"].keys() & {f"{ROOT}/api/overview"}


def test_overview_has_what_the_page_shows() -> None:
    with served(manager(admin_secret=SECRET, namespace="chat"), actions=["kick"]) as client:
        first = client.get(f"{ROOT}/api/overview").json()
    assert (first["registry"], first["mode"], first["redis"]) == ("chat", "memory", None)
    assert (first["actions"], first["missing"]) == (["kick"], 0)
    assert (first["totals"]["nodes"], first["totals"]["ready"], first["totals"]["connections"]) == (1, 1, 1)
    (node,) = first["nodes"]
    assert (node["node_id"], node["connections"], node["load"]) == (first["node"]["node_id"], 1, 1.0)


def test_one_node_is_shown_with_its_counters() -> None:
    node = manager(admin_secret=SECRET)
    with served(node) as client:
        found = client.get(f"{ROOT}/api/nodes/{node._state.node_id}").json()
    assert (found["totals"]["connections_opened"], found["gauges"]["connections"]) == (1, 1)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("connections?state=tired", 422, "state: "),
        ("connections?limit=0", 422, "limit: "),
        ("connections?limit=501", 422, "limit: "),
        ("connections?sort=size", 422, "sort: "),
        (f"connections?client={'x' * 600}", 422, "client: "),
        ("closed?cause=bored", 422, "cause: "),
        ("connections?node=nobody", 404, "no live node is called 'nobody'"),
        ("nodes/nobody", 404, "no live node has the node_id 'nobody'"),
        ("clients/a%09b", 422, "client_id"),
        ("doctor", 409, "in memory"),
    ],
)
def test_bad_question_is_a_problem(path: str, status: int, text: str) -> None:
    with served(manager(admin_secret=SECRET)) as client:
        answer = client.get(f"{ROOT}/api/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    found = answer.json()
    assert (found["status"], found["type"], text in found["detail"]) == (status, "about:blank", True), found


def test_setting_of_infinity_is_shown_and_no_answer_is_kept() -> None:
    with served(manager(admin_secret=SECRET, heartbeat_interval=float("inf"))) as client:
        answer = client.get(f"{ROOT}/api/config")
    assert answer.json()["settings"]["heartbeat_interval"] == "inf"
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == (
        "no-store",
        "nosniff",
    )


def test_name_with_a_slash_is_one_name() -> None:
    with client_of(manager()) as client:
        assert client.get(f"{ROOT}/api/clients/a%2Fb/c").json()["client_id"] == "a/b/c"


# What acts


def test_client_is_closed_and_the_audit_log_has_who_did_it(caplog: pytest.LogCaptureFixture) -> None:
    async def signed_in(request: Request) -> None:
        request.state.actor = "grace"

    node = manager(admin_secret=SECRET)
    with (
        served(node, actions=ACTIONS, dependencies=[Depends(signed_in)]) as client,
        caplog.at_level(logging.INFO),
    ):
        answer = client.post(f"{ROOT}/api/clients/ada/disconnect", json={"reason": "spam"})
        assert answer.json() == {"client_id": "ada", "closed": 1}
        again = client.post(f"{ROOT}/api/clients/ada/disconnect", json={})
        assert (again.status_code, again.json()["detail"]) == (404, "client 'ada' is not connected")
    (end,) = node.recently_closed()
    assert (end.cause.value, end.code, end.reason) == ("kicked", 4510, "spam")
    done, failed = (vars(record) for record in caplog.records if record.name.endswith(".audit"))
    assert (done["action"], done["target"], done["actor"], done["result"]) == ("kick", "ada", "grace", "1")
    assert (failed["actor"], failed["error"]) == ("grace", "client 'ada' is not connected")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("clients/ada/disconnect", {"code": 1005}),
        ("clients/ada/disconnect", {"code": "many"}),
        ("clients/ada/disconnect", {"reason": "x" * 124}),
        ("clients/ada/disconnect", []),
        ("nodes/x/drain", {"over_s": 0}),
        ("nodes/x/drain", {"over_s": -1}),
        ("broadcast", {}),
        ("broadcast", {"text": "x", "room": "a\x00"}),
    ],
)
def test_bad_action_is_a_problem_and_nothing_is_done(path: str, body: Any) -> None:
    node = manager(admin_secret=SECRET)
    with served(node, actions=ACTIONS) as client:
        answer = client.post(f"{ROOT}/api/{path}", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert node.get_connection_count() == 1


def test_text_is_sent_to_a_room_or_to_everybody(caplog: pytest.LogCaptureFixture) -> None:
    node = manager(admin_secret=SECRET)
    with client_of(node, actions=ACTIONS) as client, client.websocket_connect("/ws/ada") as socket:
        client.headers.update(AUTHORIZED | ACTING)
        for body in ({"text": "to all"}, {"text": "in", "room": "lobby"}, {"text": "no", "room": "den"}):
            answer = client.post(f"{ROOT}/api/broadcast", json=body)
            assert (answer.status_code, list(answer.json())) == (200, ["nodes"])
        assert [socket.receive_text() for _ in range(2)] == ["to all", "in"]
    assert not [record for record in caplog.records if "to all" in json.dumps(vars(record), default=str)]


def test_node_is_drained() -> None:
    node = manager(admin_secret=SECRET)
    with served(node, actions=ACTIONS) as client:
        own = node._state.node_id
        assert client.post(f"{ROOT}/api/nodes/{own}/drain", json={"over_s": 0.1}).json() == {"node_id": own}
        assert client.post(f"{ROOT}/api/nodes/nobody/drain", json={}).status_code == 404
        assert node._state.is_draining


# The page


def test_page_is_three_small_files_that_load_nothing_else() -> None:
    client = client_of(manager())
    answer = client.get(ROOT, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "admin/")
    sizes = []
    for name, kind in (("", "text/html"), ("admin.css", "text/css"), ("admin.js", "text/javascript")):
        answer = client.get(f"{ROOT}/{name}")
        assert answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        )
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(f"{ROOT}/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        sizes.append(len(answer.content))
        for unsafe in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
        ):
            assert unsafe not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert sum(sizes) <= 40_000
    assert client.get(f"{ROOT}/other.js").status_code == 404
    assert client.get(f"{ROOT}/..%2Faccess.py").status_code == 404


def test_prefix_is_that_of_the_application() -> None:
    node = manager()
    app = FastAPI()
    app.include_router(node.admin_router(prefix="/ops"), prefix="/internal")
    client = TestClient(From(app, "127.0.0.1"), base_url="http://localhost")
    assert client.get("/internal/ops", follow_redirects=False).headers["location"] == "ops/"
    assert client.get("/internal/ops/api/overview").status_code == 200
