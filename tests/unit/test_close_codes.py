"""Which close codes may be sent, and after which a client connects again."""

import json
import struct

import pytest

from fastapi_websocket_stabilizer import ConfigurationError, close_codes
from fastapi_websocket_stabilizer.close_codes import CloseCode


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1013, 3000, 4003, 4999])
def test_code_that_may_be_sent(code: int) -> None:
    assert close_codes.check(code) == code


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_code_that_may_not_is_refused_by_name(code: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"^code must be .*, got {code}$"):
        close_codes.check(code)


def test_own_codes_ask_to_connect_again_below_4500_only() -> None:
    own = [code for code in CloseCode if code >= 4000]
    assert own
    assert [code.reconnects for code in own] == [code < 4500 for code in own]


def test_member_is_the_integer() -> None:
    """Frames, JSON, logs and ASGI servers get it as it is."""
    code = CloseCode.SERVICE_RESTART
    assert (code, str(code), json.dumps(code), struct.pack("!H", code)) == (1012, "1012", "1012", b"\x03\xf4")
    assert CloseCode(1012) is code


@pytest.mark.parametrize("code", [CloseCode.NO_STATUS, CloseCode.ABNORMAL])
def test_code_of_a_lost_connection_is_never_sent_and_asks_to_connect_again(code: CloseCode) -> None:
    assert (close_codes.is_allowed(code), code.reconnects) == (False, True)
