"""What an exception of the application is to the client that has asked."""

from http import HTTPStatus
from typing import Any

import pytest
from fastapi import HTTPException

from fastapi_websocket_stabilizer.web.faults import fault_of
from fastapi_websocket_stabilizer.wire.client_frames import Fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (HTTPException(400, "no"), Fault("invalid", "no")),
        (HTTPException(422, "no"), Fault("invalid", "no")),
        (HTTPException(401, "who?"), Fault("unauthorized", "who?")),
        (HTTPException(403), Fault("forbidden", "Forbidden")),
        (HTTPException(404, "none"), Fault("not_found", "none")),
        (HTTPException(409, "taken"), Fault("conflict", "taken")),
        (HTTPException(429, "later"), Fault("limit", "later", is_temporary=True)),
        (HTTPException(500, "oh"), Fault("failed", "oh")),
        (HTTPException(503, "later"), Fault("failed", "later", is_temporary=True)),
        (HTTPException(499, "odd"), Fault("failed", "odd")),
        (
            HTTPException(409, {"code": "taken", "message": "that name is taken"}),
            Fault("taken", "that name is taken"),
        ),
        (HTTPException(409, {"code": 7}), Fault("conflict", "{'code': 7}")),
        (HTTPException(409, ""), Fault("conflict", "409")),
        (ValueError("no"), None),
    ],
)
def test_fault_of_an_exception(error: BaseException, fault: Fault | None) -> None:
    assert fault_of(error) == fault


@pytest.mark.parametrize("detail", ["x" * 5_000, {"code": "c" * 5_000, "message": "m" * 5_000}, [1] * 5_000])
def test_fault_is_within_the_bounds_of_its_frame(detail: Any) -> None:
    fault = fault_of(HTTPException(HTTPStatus.CONFLICT, detail))
    assert fault is not None
    assert 0 < len(fault.code) <= 128
    assert 0 < len(fault.message) <= 1024
