"""Conversion between plain data (TOML, JSON) and frozen settings dataclasses.

A settings class is a frozen, keyword-only dataclass, defined next to the component that it configures. Reading is
strict: an unknown or missing key, a value of another type or out of the bounds of its field, or NaN is an error that
names the field, the value and what is valid. Bounds and the form of names belong to the type of a field:

    device: FileName
    epochs: Annotated[int, Between(1, 10_000)]
"""

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from hwnas.arguments import MAX_WHOLE, conform
from hwnas.errors import InputError, unknown
from hwnas.files import read_text, require_file_name

Settings = TypeVar("Settings")

_RESOLVED: dict[type, tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]] = {}

_MAX_DEPTH = 64
"""Deepest nesting of JSON; no file of ours has more than 10 levels."""


class Rule(Protocol):
    """A condition on the values of a field, given in its type: `Annotated[str, rule]`."""

    def check(self, value: Any, *, where: str) -> None:
        """Raise InputError, which names the field by `where`, if the value does not meet the condition."""


@dataclasses.dataclass(frozen=True)
class Between:
    """Bounds of a number, both included."""

    low: float
    high: float

    def check(self, value: Any, *, where: str) -> None:
        """Raise InputError if the value is out of the bounds, or NaN."""
        if not self.low <= value <= self.high:
            raise InputError(f"{where} must be between {_bound(self.low)} and {_bound(self.high)}", got=shown(value))


@dataclasses.dataclass(frozen=True)
class Above:
    """A lower bound that is not included, and an upper one that is."""

    low: float
    high: float = sys.float_info.max

    def check(self, value: Any, *, where: str) -> None:
        """Raise InputError if the value is out of the bounds, or NaN."""
        if not self.low < value <= self.high:
            upper = "" if self.high == sys.float_info.max else f" and at most {_bound(self.high)}"
            raise InputError(f"{where} must be greater than {_bound(self.low)}{upper}", got=shown(value))


def _bound(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


class _FileNameRule:
    def check(self, value: Any, *, where: str) -> None:
        require_file_name(value, what=where)


class _UtcRule:
    def check(self, value: Any, *, where: str) -> None:
        try:
            year = datetime.fromisoformat(value).year
        except ValueError:
            year = 0
        if not 2000 <= year <= 2200:
            raise InputError(f"{where} must be a time such as 2026-01-31T12:00:00+00:00", got=shown(value))


Seed = Annotated[int, Between(0, 2**32 - 1)]
"""A seed of random numbers."""

FileName = Annotated[str, _FileNameRule()]
"""A name that becomes part of a path: of a device, space, runtime, profile or metric."""

UtcTime = Annotated[str, _UtcRule()]
"""A time in ISO 8601."""


def from_mapping(cls: type[Settings], data: object, *, where: str = "") -> Settings:
    """Build a settings dataclass from plain data.

    Args:
        cls: The dataclass.
        data: A mapping of field names to plain values.
        where: Path of the data in error messages; empty at the top level.

    Raises:
        InputError: A key is unknown or missing, or a value has another type than its field.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where or cls.__name__} must be a table of named values", got=shown(data))
    hints, fields = _fields(cls)
    for key in data:
        if key not in fields:
            raise unknown(f"{where or cls.__name__}: key", str(key), fields)
    values = {}
    for name, field in fields.items():
        path = f"{where}.{name}" if where else name
        if name in data:
            values[name] = _convert(hints[name], data[name], path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{path} is missing", got=f"only {', '.join(map(str, data)) or 'nothing'}")
    try:
        return cls(**values)
    except InputError as error:
        if not where:
            raise
        raise InputError(f"{where}: {error.message}", got=error.got, known=error.known, hint=error.hint) from error


def require_valid(settings: object) -> None:
    """Check the fields of a settings object by their types, and convert them as arguments are: for a `__post_init__`.

    Raises:
        InputError: A value has another type than its field, does not meet its rule, or is a number that is not finite.
    """
    for name, hint in _fields(type(settings))[0].items():
        value = getattr(settings, name)
        converted = conform(hint, value, where=name)
        if converted is not value:
            object.__setattr__(settings, name, converted)  # the class is frozen, and the object is just being made


def to_mapping(settings: object) -> dict[str, Any]:
    """Return the plain data of a dataclass, without fields that are None by default."""
    assert dataclasses.is_dataclass(settings)
    values = [(field, getattr(settings, field.name)) for field in dataclasses.fields(settings) if field.init]
    return {field.name: _plain(value) for field, value in values if value is not None or field.default is not None}


def load_toml(cls: type[Settings], path: Path) -> Settings:
    """Read a settings dataclass from a TOML file; raise InputError if it is not valid."""
    import tomllib  # new in Python 3.11, and a machine that only measures may have 3.10

    try:
        data = tomllib.loads(read_text(path))
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be read") from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML", got=error) from error
    return from_mapping(cls, data)


def dump_toml(settings: object) -> str:
    """Return the TOML text of a dataclass, which `load_toml` reads back to an equal one.

    TOML has no null: a field may be None only if that is its default.
    """
    import tomli_w  # only writing needs it, and a machine that only measures may lack it

    return tomli_w.dumps(to_mapping(settings))


def load_json(path: Path) -> object:
    """Read a JSON file; raise InputError if it is missing, empty or broken."""
    return parse_json(read_text(path), source=str(path))


def parse_json(text: str, *, source: str) -> object:
    """Parse JSON text.

    Args:
        text: The text.
        source: Origin of the text, for error messages.

    Raises:
        InputError: The text is empty or not JSON, or a key occurs twice in one table.
    """
    if not text.strip():
        raise InputError(f"{source} is empty, but it must hold JSON")
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        if text.count("[") + text.count("{") > _MAX_DEPTH:
            _require_shallow(data)
        if "\\u0000" in text or "\\ud" in text or "\\uD" in text:  # escapes of what files and terminals cannot hold
            _require_storable(data)
    except ValueError as error:
        raise InputError(f"{source} is not JSON", got=error) from error
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply to be read") from error
    return data


def require_schema(
    schema: object, *, expected: str, source: str, hint: str = "read it with the version of hwnas that wrote it"
) -> None:
    """Require that a file has the schema that this version reads.

    Args:
        schema: The schema that the file states.
        expected: The schema to read.
        source: Name of the file in the error message.
        hint: Remedy.

    Raises:
        InputError: The file has another schema.
    """
    if schema != expected:
        raise InputError(f"{source} has an unsupported schema", got=shown(schema), known=[expected], hint=hint)


def shown(value: object) -> str:
    """Format a value for an error message: as JSON if possible, and shortened."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = ascii(value) if not isinstance(value, int) else f"a whole number of {value.bit_length()} bits"
    return text if len(text) <= 80 else text[:77] + "..."


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} occurs twice in one table")
    return table


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")


def _require_shallow(data: object) -> None:
    """Raise RecursionError for data nested so deeply that Python functions cannot walk through them."""
    containers = [data] if isinstance(data, (dict, list)) else []
    for _ in range(_MAX_DEPTH):
        children = [item.values() if isinstance(item, dict) else item for item in containers]
        containers = [item for items in children for item in items if isinstance(item, (dict, list))]
        if not containers:
            return
    raise RecursionError


def _require_storable(data: object) -> None:
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair is not a character") from error
    if "\\u0000" in text.replace("\\\\", ""):
        raise ValueError("a text must not contain the character NUL")


def _fields(cls: type) -> tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]:
    """Return the types and the fields of a settings class, resolved once: that takes longer than reading an object."""
    if cls not in _RESOLVED:
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        hints = get_type_hints(cls, include_extras=True)
        _RESOLVED[cls] = {name: hints[name] for name in fields}, fields
    return _RESOLVED[cls]


def _plain(value: object) -> object:
    if value is None or isinstance(value, (int, float, str)):  # most values, and the tests below take longer
        return value
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: object, where: str) -> Any:
    if hint is str or hint is int or hint is float:  # most fields
        return _convert_scalar(hint, value, where)
    if hint is Any or hint is object:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        converted = _convert(arguments[0], value, where)
        for rule in arguments[1:]:
            if hasattr(rule, "check"):
                rule.check(converted, where=where)
        return converted
    if origin in (Union, types.UnionType):
        return _convert_optional(arguments, value, where)
    if origin is Literal:
        return _convert_literal(arguments, value, where)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is Mapping:
        return _convert_mapping(arguments[1], value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, where=where)
    return _convert_scalar(hint, value, where)


def _convert_optional(arguments: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    first, *others = [argument for argument in arguments if argument is not type(None)]
    try:
        return _convert(first, value, where)
    except InputError:  # a number or one of some words: the error is that of the number
        for hint in others:
            with suppress(InputError):
                return _convert(hint, value, where)
        raise


def _convert_literal(choices: tuple[Any, ...], value: object, where: str) -> Any:
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise unknown(f"{where}:", str(value), [str(choice) for choice in choices])
    return value


def _convert_tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{where} must be a list", got=shown(value))
    if arguments == (int, Ellipsis) and set(map(type, value)) == {int} and max(map(abs, value)) <= MAX_WHOLE:
        return tuple(value)  # thousands of times of one measurement
    if arguments[-1:] == (Ellipsis,):
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise InputError(f"{where} must have {len(arguments)} values", got=shown(value))
    pairs = enumerate(zip(arguments, value, strict=True))
    return tuple(_convert(hint, item, f"{where}[{index}]") for index, (hint, item) in pairs)


def _convert_mapping(hint: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be a table of named values", got=shown(value))
    if hint is Any or hint is object:
        return {str(key): item for key, item in value.items()}
    return {str(key): _convert(hint, item, f"{where}.{key}") for key, item in value.items()}


def _convert_scalar(hint: Any, value: object, where: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:
            raise InputError(f"{where} must be a finite number", got=shown(value))
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        if hint is int and abs(value) > MAX_WHOLE:  # type: ignore[arg-type]
            raise InputError(f"{where} must be a whole number of at most 19 digits", got=shown(value))
        return value
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    raise InputError(f"{where} must be {names.get(hint, hint)}", got=shown(value))
