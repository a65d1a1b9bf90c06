"""Types of the data that functions of the application take from clients. The annotation of a parameter decides."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType, NoneType, SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError, to_json

from ..exceptions import ConfigurationError

MAX_ERRORS = 64
"""Errors of one value up to which they are listed. pydantic makes them all, or none."""
SHOWN_ERRORS = 8
MAX_CHARACTERS = 512
"""Longest description of errors."""


class UnfitError(ValueError):
    """Data of a client does not fit. The text has fields and rules, and nothing of the data."""


class Schema:
    """The type of one parameter, ready to validate data."""

    __slots__ = ("_adapter", "_is_text", "_words")

    def __init__(self, annotation: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        if (rebuild := getattr(self._adapter, "rebuild", None)) is not None:  # since pydantic 2.10
            rebuild(raise_errors=True)  # a name in a field may be undefined
        self._is_text = _is_text(annotation)
        self._words: frozenset[str] | None = None

    def parse(self, message: str | bytes) -> Any:
        """Return the value of a message of a plain socket.

        A text is JSON, unless the type is a string. A binary message fits only types of bytes.

        Raises:
            UnfitError: It does not fit.
        """
        try:
            if isinstance(message, bytes):
                return self._adapter.validate_python(message, strict=True)
            if self._is_text:
                return self._adapter.validate_python(message)
            return _no_bytes(self._adapter.validate_json(message))
        except ValidationError as error:
            raise UnfitError(self._described(error)) from None

    def convert(self, data: Any) -> Any:
        """Return the value of decoded data: JSON, or bytes.

        JSON is encoded again, because a strict type accepts dates and tuples from JSON text only.

        Raises:
            UnfitError: It does not fit.
        """
        try:
            if isinstance(data, bytes):
                return self._adapter.validate_python(data, strict=True)
            return _no_bytes(self._adapter.validate_json(to_json(data)))
        except ValidationError as error:
            raise UnfitError(self._described(error)) from None

    def render(self, value: Any) -> Any:
        """Return a result as JSON value: only what its type has, as FastAPI does.

        Raises:
            ValidationError: The application returned another type.
        """
        checked = self._adapter.validate_python(value, from_attributes=True)
        return self._adapter.dump_python(checked, mode="json", by_alias=True)

    def _described(self, error: ValidationError) -> str:
        count = error.error_count()
        if count > MAX_ERRORS:
            return f"{count} values do not fit"
        rows = error.errors(include_url=False, include_context=False, include_input=False)
        shown = [f"{self._path(row['loc'])}{row['type']}" for row in rows[:SHOWN_ERRORS]]
        if count > SHOWN_ERRORS:
            shown.append(f"{count - SHOWN_ERRORS} more")
        return ", ".join(shown)[:MAX_CHARACTERS]

    def _path(self, location: tuple[int | str, ...]) -> str:
        """Return the place of an error. A key that the type does not have is the client's, and not repeated."""
        if self._words is None:
            self._words = frozenset(_words(self._adapter.core_schema))
        parts = [str(part) if isinstance(part, int) or part in self._words else "*" for part in location]
        return ".".join(parts) + ": " if parts else ""


def _no_bytes(value: Any) -> Any:
    if isinstance(value, bytes):  # pydantic makes bytes of a JSON string
        raise UnfitError("bytes_type")
    return value


def _is_text(annotation: Any) -> bool:
    annotation = _unaliased(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_text(get_args(annotation)[0])
    if origin is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, str)


def _unaliased(annotation: Any) -> Any:
    while hasattr(annotation, "__value__"):  # type Alias = …, since Python 3.12
        annotation = annotation.__value__
    return annotation


def _words(schema: Any) -> Iterator[str]:
    """Yield every string in a schema of pydantic: names of fields, their aliases, tags of unions."""
    waiting, known = [schema], set[int]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, type):
            yield part.__name__
        elif isinstance(part, Mapping | list | tuple) and id(part) not in known:
            known.add(id(part))
            waiting += part
            if isinstance(part, Mapping):
                waiting += part.values()


def schema_of(event: str, function: Callable[..., Any], untyped: Any = Any) -> Schema | None:
    """Return the type of the second parameter; None if it has none, or the type ``untyped``.

    Raises:
        ConfigurationError: The annotation cannot be resolved, or pydantic cannot validate its type.
    """
    key = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(key, FunctionType):
        return _find(event, function, untyped)
    known = _schemas.setdefault(key, {})
    if untyped not in known:
        known[untyped] = _find(event, function, untyped)
    return known[untyped]


_schemas: WeakKeyDictionary[Callable[..., Any], dict[Any, Schema | None]] = WeakKeyDictionary()
"""The results for each function. ``serve`` gets the same function for each socket, and a validator takes memory."""


def _find(event: str, function: Callable[..., Any], untyped: Any) -> Schema | None:
    parameter = _second_parameter(function)
    if parameter is None or parameter.annotation is inspect.Parameter.empty:
        return None
    annotation = resolved(event, function, parameter.name, parameter.annotation)
    if _unaliased(annotation) in (Any, object, untyped):
        return None
    return _made(event, function, parameter.name, annotation)


def result_schema_of(event: str, function: Callable[..., Any]) -> Schema | None:
    """Return the type of the result; None if the function names none, or ``None``.

    Raises:
        ConfigurationError: As ``schema_of``.
    """
    annotation = _signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        return None
    annotation = resolved(event, function, "return", annotation)
    is_none = _unaliased(annotation) in (Any, object, None, NoneType)
    return None if is_none else _made(event, function, "return", annotation)


def _made(event: str, function: Callable[..., Any], name: str, annotation: Any) -> Schema:
    try:
        return Schema(annotation)
    except (PydanticUserError, SchemaError, NameError, TypeError) as error:
        raise ConfigurationError(
            f"{event}: pydantic cannot validate the type of {name!r} of {_name(function)}: "
            f"{str(error).splitlines()[0]}; annotate it with a model, a TypedDict, a dataclass or a JSON type"
        ) from error


def _second_parameter(function: Callable[..., Any]) -> inspect.Parameter | None:
    parameters = _signature(function).parameters.values()
    positional = [
        each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return positional[1] if len(positional) > 1 else None


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # implemented in C, without a signature
        return inspect.Signature()


def resolved(event: str, function: Callable[..., Any], name: str, annotation: Any) -> Any:
    """Return an annotation without quotes. Only this one is resolved: the others may name imports for type checkers.

    Raises:
        ConfigurationError: A name in it is not known where the function is defined.
    """
    inner = _innermost(function)
    variables = inspect.getclosurevars(inner).nonlocals if isinstance(inner, FunctionType) else {}
    holder = SimpleNamespace(__annotations__={name: annotation})
    try:
        return get_type_hints(holder, getattr(inner, "__globals__", {}), variables, include_extras=True)[name]
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{event}: the annotation {annotation!r} of {name!r} of {_name(function)} cannot be resolved: {error}; "
            "import its names at run time and not under TYPE_CHECKING, and define them at module level"
        ) from error


def _innermost(function: Callable[..., Any]) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if isinstance(function, MethodType):
        return inspect.unwrap(function.__func__)
    return function if isinstance(function, FunctionType) else type(function).__call__


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
