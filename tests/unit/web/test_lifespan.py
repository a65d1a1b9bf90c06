"""Which name tells one application from another. The log of real servers is in ``tests/integration``."""

import signal

import pytest
from fastapi import FastAPI
from uvicorn import Config, Server

from fastapi_websocket_stabilizer.web.lifespan import application_of


def test_title_is_the_name_of_an_application() -> None:
    assert application_of(FastAPI(title="Orders")) == "Orders"


def test_application_without_title_and_uvicorn_has_no_name() -> None:
    assert application_of(FastAPI()) == ""


@pytest.mark.parametrize(("imported", "name"), [("orders.main:app", "orders.main:app"), (FastAPI(), "")])
def test_name_that_uvicorn_imports_is_the_name_of_an_application_without_a_title(
    imported: FastAPI | str, name: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, Server(Config(imported, log_config=None)).handle_exit)
    try:
        assert application_of(FastAPI()) == name
    finally:
        signal.signal(signal.SIGTERM, before)
