"""What the registry remembers of a connection: stays that Redis has confirmed, or may have lost since."""

from fastapi_websocket_stabilizer.registry.registration import Registration


def registration_in(*rooms: str) -> Registration:
    registration = Registration(0)
    for room in rooms:
        registration.confirm_stay(room, f"stay in {room}")
    return registration


def test_no_stay_is_lost_as_long_as_redis_has_lost_nothing() -> None:
    assert registration_in("a", "b").forget_visit() == {}


def test_stays_that_were_not_confirmed_again_may_be_lost() -> None:
    registration = registration_in("a", "b", "c")
    registration.doubt_stays()
    registration.confirm_stay("a", "stay in a")
    registration.end_stay("b")
    registration.confirm_stay("d", "stay in d")
    assert registration.forget_visit() == {"c": "stay in c"}


def test_lost_stays_are_told_once() -> None:
    registration = registration_in("a")
    registration.doubt_stays()
    registration.forget_visit()
    assert registration.forget_visit() == {}
    assert registration.entered == {}
