"""Types of messages: the annotation decides, data is validated once, and errors repeat nothing of it."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from fastapi_websocket_stabilizer import ConfigurationError, Connection
from fastapi_websocket_stabilizer.registry.schemas import (
    MAX_CHARACTERS,
    MAX_ERRORS,
    SHOWN_ERRORS,
    Schema,
    UnfitError,
    schema_of,
)

if TYPE_CHECKING:
    from decimal import Decimal


class Say(BaseModel):
    kind: Literal["say"] = "say"
    text: Annotated[str, Field(max_length=5)]


class Move(BaseModel):
    kind: Literal["move"] = "move"
    x: int


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    place: tuple[int, int]


@dataclass
class Point:
    x: int
    y: int = 0


class Row(TypedDict):
    name: str


class Colour(StrEnum):
    RED = "red"


Action = Annotated[Say | Move, Field(discriminator="kind")]


def unfit(schema: Schema, message: str | bytes) -> str:
    with pytest.raises(UnfitError) as caught:
        schema.parse(message)
    return str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "message", "value"),
    [
        (str, "hello", "hello"),
        (str, '{"a":1}', '{"a":1}'),
        (Annotated[str, Field(max_length=5)], "hello", "hello"),
        (Literal["on", "off"], "on", "on"),
        (Colour, "red", Colour.RED),
        (bytes, b"\x00\xff", b"\x00\xff"),
        (dict, '{"a":[1,null]}', {"a": [1, None]}),
        (list[int], "[1,2]", [1, 2]),
        (int, "7", 7),
        (int | None, "null", None),
        (Say, '{"text":"hi"}', Say(text="hi")),
        (Action, '{"kind":"move","x":3}', Move(x=3)),
        (Row, '{"name":"ann"}', {"name": "ann"}),
        (Point, '{"x":1}', Point(1)),
        (Strict, '{"day":"2026-01-02","place":[1,2]}', Strict(day=date(2026, 1, 2), place=(1, 2))),
        (Say | bytes, b"\x01", b"\x01"),
        (Say | bytes, '{"text":"hi"}', Say(text="hi")),
    ],
)
def test_message_has_the_type_of_its_parameter(annotation: Any, message: str | bytes, value: Any) -> None:
    assert Schema(annotation).parse(message) == value


@pytest.mark.parametrize(
    ("annotation", "message", "why"),
    [
        (str, b"hello", "string_type"),
        (Annotated[str, Field(max_length=5)], "longer than five", "string_too_long"),
        (bytes, "hello", "json_invalid"),
        (bytes, '"hello"', "bytes_type"),
        (Say | bytes, '"hello"', "bytes_type"),
        (dict, "no json", "json_invalid"),
        (dict, b"{}", "dict_type"),
        (dict, "[]", "dict_type"),
        (Say, '{"text":"longer than five"}', "text: string_too_long"),
        (Say, "{}", "text: missing"),
        (Action, '{"kind":"steal"}', "union_tag_invalid"),
        (Action, '{"kind":"move","x":"y"}', "move.x: int_parsing"),
        (Row, '{"name":3}', "name: string_type"),
        (list[int], '[1,"x"]', "1: int_parsing"),
    ],
)
def test_message_of_another_type_does_not_fit_and_the_rule_is_named(
    annotation: Any, message: str | bytes, why: str
) -> None:
    assert unfit(Schema(annotation), message) == why


TYPES = [dict, list, list[int], int, Say, Action, Strict, Row, Point, Say | bytes]
JSON = st.recursive(
    st.none() | st.integers(-9, 9) | st.sampled_from(["x", "move", "2026-01-02"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["kind", "text", "x", "day", "place", "name"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def outcome(validate: Callable[[Any], Any], data: Any) -> tuple[bool, Any]:
    try:
        return True, validate(data)
    except UnfitError as error:
        return False, str(error)


@given(annotation=st.sampled_from(TYPES), data=JSON)
def test_decoded_data_fits_as_its_text_does(annotation: Any, data: Any) -> None:
    schema = Schema(annotation)
    assert outcome(schema.convert, data) == outcome(schema.parse, json.dumps(data))


def test_decoded_bytes_and_texts_fit_like_messages() -> None:
    assert Schema(str).convert("hello") == "hello"
    assert Schema(bytes).convert(b"\xff") == b"\xff"
    for schema, data in ((Schema(str), b"hello"), (Schema(bytes), "hello"), (Schema(dict), '{"a":1}')):
        with pytest.raises(UnfitError):
            schema.convert(data)


# Errors

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Action, {"kind": SECRET}),
        (dict[str, int], {SECRET: "x"}),
        (dict[int, int], {SECRET: 1}),
        (Say, {"text": SECRET * 9}),
        (int, SECRET),
        (date, SECRET),
        (Row, {"name": [SECRET]}),
    ],
)
def test_error_repeats_nothing_of_the_data(annotation: Any, message: Any) -> None:
    assert SECRET not in unfit(Schema(annotation), json.dumps(message))


def test_error_does_not_repeat_unknown_fields() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")

    assert unfit(Schema(Closed), json.dumps({SECRET: 1})) == "*: extra_forbidden"


def test_error_names_a_field_by_its_alias() -> None:
    class Renamed(BaseModel):
        inner: list[int] = Field(alias="from")

    assert unfit(Schema(Renamed), '{"from":[1,"x"]}') == "from.1: int_parsing"


@given(wrong=st.integers(1, 3 * MAX_ERRORS))
def test_description_of_errors_is_bounded(wrong: int) -> None:
    text = unfit(Schema(list[int]), json.dumps(["x"] * wrong))
    assert len(text) <= MAX_CHARACTERS
    if wrong > MAX_ERRORS:
        assert text == f"{wrong} values do not fit"
    else:
        assert text.count("int_parsing") == min(wrong, SHOWN_ERRORS)
        assert (f"{wrong - SHOWN_ERRORS} more" in text) == (wrong > SHOWN_ERRORS)


def test_long_path_of_an_error_is_cut() -> None:
    class Long(BaseModel):
        pass

    fields: Any = {"x" * 300: (int, ...), "y" * 300: (int, ...)}

    assert len(unfit(Schema(create_model("Wide", **fields)), "{}")) == MAX_CHARACTERS
    assert Schema(Long).parse("{}") == Long()


# Annotations


def plain(connection: Connection, message: str | bytes) -> None: ...
def reversed_plain(connection: Connection, message: bytes | str) -> None: ...
def quoted_plain(connection: Connection, message: "str | bytes") -> None: ...
def without(connection, message): ...  # type: ignore[no-untyped-def]  # one that takes anything
def anything(connection: Connection, message: Any) -> None: ...
def any_object(connection: Connection, message: object) -> None: ...
def several(*arguments: str) -> None: ...


UNTYPED = [
    plain,
    reversed_plain,
    quoted_plain,
    without,
    anything,
    any_object,
    several,
    print,
    lambda c, m: None,
]


@pytest.mark.parametrize(
    "function",
    [plain, reversed_plain, quoted_plain, without, anything, any_object, several, print, lambda c, m: None],
)
def test_function_that_takes_any_message_has_no_type(function: Callable[..., Any]) -> None:
    assert schema_of("on_message", function, str | bytes) is None


def test_union_of_message_types_is_a_type_where_messages_are_none() -> None:
    assert schema_of("on_request", plain) is not None


def typed(connection: Connection, message: Say) -> None: ...
def quoted(connection: "Unknown", message: "list[Say]") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - what only a type checker knows
def kept(connection: Connection, message: Annotated[int, Field(gt=5)]) -> None: ...


class Methods:
    def handle(self, connection: Connection, message: Say) -> None: ...

    def __call__(self, connection: Connection, message: "Say") -> None: ...


@functools.wraps(typed)
def wrapped(*arguments: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (typed, '{"text":"hi"}'),
        (quoted, '[{"text":"hi"}]'),
        (kept, "6"),
        (Methods().handle, '{"text":"hi"}'),
        (Methods(), '{"text":"hi"}'),
        (wrapped, '{"text":"hi"}'),
        (functools.partial(typed), '{"text":"hi"}'),
    ],
)
def test_type_is_found_behind_methods_wrappers_and_quotes(function: Callable[..., Any], message: str) -> None:
    schema = schema_of("on_message", function)
    assert schema is not None
    schema.parse(message)
    unfit(schema, "5")


def test_type_of_an_enclosing_function_is_found() -> None:
    class Inner(BaseModel):
        x: int

    def handle(connection: Connection, message: "Inner") -> None:
        Inner(x=1)

    schema = schema_of("on_message", handle)
    assert schema is not None
    assert schema.parse('{"x":1}') == Inner(x=1)


def test_type_of_one_function_is_made_once() -> None:
    assert schema_of("on_message", typed) is schema_of("on_message", typed) is not None
    methods = Methods()
    assert schema_of("on_message", methods.handle) is schema_of("on_message", Methods().handle) is not None


def test_function_that_takes_any_message_in_one_place_may_have_a_type_in_another() -> None:
    assert schema_of("on_message", plain, str | bytes) is None
    assert schema_of("on_request", plain) is not None
    assert schema_of("on_message", plain, str | bytes) is None


def hidden(connection: Connection, message: "Decimal") -> None: ...


def test_annotation_that_cannot_be_resolved_names_the_function_the_parameter_and_the_way_out() -> None:
    with pytest.raises(ConfigurationError) as caught:
        schema_of("on_message", hidden)
    words = ("on_message", "hidden", "'message'", "'Decimal'", "TYPE_CHECKING")
    assert [word for word in words if word not in str(caught.value)] == []


class Opaque:
    pass


class Half(TypedDict):
    other: "Missing"  # type: ignore[name-defined]  # noqa: F821 - what nothing defines


@pytest.mark.parametrize("annotation", [Opaque, Half, list[Opaque]])
def test_type_that_cannot_be_validated_is_refused(annotation: Any) -> None:
    def handle(connection: Connection, message: Any) -> None: ...

    handle.__annotations__["message"] = annotation
    with pytest.raises(ConfigurationError, match="pydantic cannot validate the type of 'message'"):
        schema_of("on_request", handle)
