"""What URLs mean, and that an error about one repeats neither user nor password."""

from pathlib import Path

import pytest
from redis.asyncio import Connection

from fastapi_websocket_stabilizer import ConfigurationError
from fastapi_websocket_stabilizer.backends.redis.urls import Address, TlsConnection, make_connection, parse


def test_one_server() -> None:
    location = parse("redis://user:p%40ss@host:7000/3")
    assert (location.kind, location.shown) == ("server", "redis://***:***@host:7000/3")
    wanted = {"host": "host", "port": 7000, "db": 3, "username": "user", "password": "p@ss"}
    assert wanted.items() <= location.options.items()


def test_sentinels_have_credentials_of_their_own() -> None:
    url = "redis+sentinel://user:p%40ss@one:1,[::1]/main/2?sentinel_password=of%20theirs&client_name=me"
    location = parse(url)
    assert location.kind == "sentinel"
    assert (location.seeds, location.service) == ((Address("one", 1), Address("::1", 26379)), "main")
    wanted = {"db": 2, "username": "user", "password": "p@ss", "client_name": "me"}
    assert wanted.items() <= location.options.items()
    sentinel = location.sentinel or {}
    assert sentinel["password"] == "of theirs"
    assert "username" not in sentinel
    assert "db" not in sentinel


def test_a_cluster_and_one_server_of_it() -> None:
    location = parse("redis+cluster://:pass@one,two:7001")
    assert location.seeds == (Address("one", 6379), Address("two", 7001))
    server = location.at(Address("three", 7002))
    assert (server.kind, server.options["host"], server.options["port"]) == ("server", "three", 7002)
    assert server.options["password"] == "pass"
    assert server.shown == "redis+cluster://:***@one,two:7001 (three:7002)"


@pytest.mark.parametrize("url", ["rediss://h", "rediss+cluster://h", "rediss+sentinel://h/main"])
def test_tls_is_spoken_with_everybody(url: str) -> None:
    location = parse(url)
    assert isinstance(make_connection(location.options), TlsConnection)
    if location.sentinel is not None:
        assert isinstance(make_connection(location.sentinel), TlsConnection)


@pytest.mark.parametrize("url", ["redis://h", "redis+cluster://h", "redis+sentinel://h/main"])
def test_without_tls_there_is_none(url: str) -> None:
    assert type(make_connection(parse(url).options)) is Connection


def test_certificates_are_named_as_redis_py_names_them(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    query = f"ssl_ca_certs={file}&ssl_certfile={file}&ssl_keyfile={file}&ssl_check_hostname=false"
    made = make_connection(parse(f"rediss://h?{query}&ssl_cert_reqs=required").options)
    assert isinstance(made, TlsConnection)
    assert (made.ca_certs, made.certfile, made.keyfile, made.check_hostname) == (*[str(file)] * 3, False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:hunter2@h?unheard_of=1", "unheard_of"),
        ("redis://:hunter2@h:port", "port"),
        ("rediss://:hunter2@h?ssl_ca_certs=/nowhere.pem", "/nowhere.pem"),
        ("redis+sentinel://:hunter2@h", "/service"),
        ("redis+sentinel://:hunter2@h/main/first", "first"),
        ("redis+sentinel://:hunter2@h/main/1/2", "/service"),
        ("redis+cluster://:hunter2@h/1", "database 0"),
        ("redis+cluster://:hunter2@h,,k", "host:port"),
        ("redis+cluster://user:hunter2@", "host:port"),
    ],
)
def test_what_cannot_work_is_refused_without_the_password(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^redis_url must be valid, got redis") as caught:
        parse(url)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hun/ter2@h:1",
        "rediss://user:hun#ter2@h:1",
        "redis+cluster://user:hun?ter2@h:1",
        "redis+sentinel://user:hun/ter2@h:1/main",
        "user:hunter2@h:1",
        "redis:user:hunter2@h",
    ],
)
def test_nothing_of_a_password_is_shown_that_breaks_the_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^redis_url must be valid") as caught:
        parse(url)
    assert not any(piece in str(caught.value) for piece in ("hun", "ter2", "user:"))


def test_repr_has_no_secrets() -> None:
    url = "redis+sentinel://user:hunter2@h/main?sentinel_username=user&sentinel_password=hunter2"
    assert not any(secret in repr(parse(url)) for secret in ("user:", "'user'", "hunter2"))


def test_what_redis_py_decides_by_default_is_decided_here() -> None:
    decided = {"protocol": 2, "socket_timeout": None, "health_check_interval": 0, "decode_responses": False}
    assert decided.items() <= parse("redis://h?protocol=3&socket_timeout=5").options.items()


@pytest.mark.parametrize(
    "url", ["redis://h/main", "redis://h/0/1", "rediss://h/-1", "redis+sentinel://h/main/x"]
)
def test_database_is_a_number(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no number of a database"):
        parse(url)
