"""Which close codes may be sent."""

import pytest

from fastapi_websocket_stabilizer import ConfigurationError, close_codes


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1013, 3000, 4003, 4999])
def test_code_that_may_be_sent(code: int) -> None:
    assert close_codes.check(code) == code


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_code_that_may_not_is_refused_by_name(code: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"^code must be .*, got {code}$"):
        close_codes.check(code)


def test_own_codes_ask_to_connect_again_below_4500_only() -> None:
    own = {code for code in vars(close_codes).values() if isinstance(code, int) and code >= 4000}
    assert own
    assert own & close_codes.RECONNECT == {code for code in own if code < 4500}
