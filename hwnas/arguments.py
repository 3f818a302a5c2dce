"""Check the arguments of public functions and the fields of options by their annotations.

Python does not: `budget="10"`, or a text where a path is needed, would fail far inside with an error about an
attribute. What clearly stands for the right value is converted: a text for a path, a list for a tuple.
"""

import functools
import inspect
import math
import operator
import os
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from hwnas.errors import InputError, unknown

P = ParamSpec("P")
R = TypeVar("R")

_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4095

MAX_WHOLE = 2**63 - 1
"""Largest whole number without bounds of its own: what numpy, torch and SQLite can hold."""

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    Path: "a path",
    type(None): "None",
}


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: its arguments are checked and converted by their annotations at each call.

    Raises:
        InputError: At a call, for an argument of another type. It names the argument.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            is_single = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if is_single and parameter.annotation is not parameter.empty:
                bound.arguments[name] = conform(parameter.annotation, value, where=name)
        return function(*bound.args, **bound.kwargs)

    return checked


def conform(hint: Any, value: Any, *, where: str) -> Any:
    """Return a value as an annotation asks for it.

    Args:
        hint: The annotation. Texts, protocols, type variables and the like accept any value.
        value: What the caller passed.
        where: Name of the argument, for the error message.

    Raises:
        InputError: The value has another type, breaks a rule of `Annotated`, or is a number that is not finite.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = [rule for rule in arguments[1:] if hasattr(rule, "check")]
        if type(value) is not int or arguments[0] is not int:  # bounds say more than that it has too many digits
            value = conform(arguments[0], value, where=where)
        for rule in rules if value is not None else ():
            rule.check(value, where=where)
        return conform(arguments[0], value, where=where)
    if hint in (Any, object):
        return value
    if origin in (Union, types.UnionType):
        return _conform_union(arguments, value, where)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise unknown(where, str(value), map(str, arguments))
        return value
    if origin is tuple:
        return _conform_tuple(arguments, value, where)
    if origin in (Sequence, Collection):
        return _conform_sequence(arguments[0], value, where)
    if origin is Mapping and isinstance(value, Mapping):
        return {
            conform(arguments[0], key, where=f"a key of {where}"): conform(
                arguments[1], item, where=f"{where}[{_brief(key)}]"
            )
            for key, item in value.items()
        }
    kind = origin or hint
    if kind in (int, float, str, bool, Path):
        return _conform_scalar(kind, value, where)
    if getattr(kind, "_is_protocol", False):
        methods = [name for name, item in vars(kind).items() if callable(item) and not name.startswith("_")]
        if not all(callable(getattr(value, name, None)) for name in methods):
            raise _wrong(where, f"an object with the methods {' and '.join(methods)}", value)
        return value
    if not isinstance(kind, type) or isinstance(value, kind):
        return value
    # Options are made by the caller, so the error says how.
    hint_text = f"hwnas.{kind.__name__}(...)" if kind.__name__.endswith("Options") else None
    raise _wrong(where, _word(hint), value, hint=hint_text)


def _conform_sequence(hint: Any, value: Any, where: str) -> Any:
    """Check the items of a sequence. A single text is no sequence of texts; arrays of plain values stay as they are."""
    if hasattr(value, "dtype") and hasattr(value, "__len__") and hint in (int, float, bool, str, Any, object):
        return value
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection) or isinstance(value, Mapping):
        raise _wrong(where, "a list", value)
    return [conform(hint, item, where=f"{where}[{index}]") for index, item in enumerate(value)]


def _conform_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """Return the value as the first choice takes it; a choice that it is an instance of comes before conversions."""
    if value is None and type(None) in choices:
        return None
    others = [choice for choice in choices if choice is not type(None)]
    if set(others) == {str, Path}:
        return _conform_path(value, where)
    fitting = [choice for choice in others if _is_instance(choice, value)]
    for choice in fitting or others:
        try:
            return conform(choice, value, where=where)
        except InputError:
            if len(others) == 1 or fitting:  # it breaks a rule of its own type, and the others say nothing about it
                raise
    raise _wrong(where, " or ".join(dict.fromkeys(map(_word, others))), value)


def _is_instance(hint: Any, value: Any) -> bool:
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    is_class = isinstance(hint, type) and hint is not Any and not getattr(hint, "_is_protocol", False)
    return is_class and isinstance(value, hint)


def _conform_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise _wrong(where, "a list", value)
    if items[-1:] == (Ellipsis,):
        items = items[:1] * len(value)
    if len(items) != len(value):
        raise InputError(f"{where} must have {len(items)} values", got=len(value))
    pairs = enumerate(zip(items, value, strict=True))
    return tuple(conform(hint, item, where=f"{where}[{index}]") for index, (hint, item) in pairs)


def _conform_scalar(kind: type, value: Any, where: str) -> Any:
    if kind is Path:
        return _conform_path(value, where)
    if kind in (str, bool):
        if not isinstance(value, kind):
            raise _wrong(where, _WORDS[kind], value)
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__" if kind is int else "__float__"):
        raise _wrong(where, _WORDS[kind], value)
    try:
        number = operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(where, _WORDS[kind], value) from error
    if not (abs(number) <= MAX_WHOLE if kind is int else math.isfinite(number)):
        text = "a whole number of at most 19 digits" if kind is int else "a finite number"
        raise InputError(f"{where} must be {text}", got=_brief(value))
    return number


def _conform_path(value: Any, where: str) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise _wrong(where, "a path", value)
    try:
        text = os.fsencode(value)
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise InputError(f"{where} must be a path of valid characters", got=_brief(str(value))) from error
    if b"\0" in text:
        raise InputError(f"{where} must be a path without the character NUL", got=_brief(str(value)))
    if len(text) > _MAX_PATH_BYTES or max(map(len, text.split(os.sep.encode()))) > _MAX_NAME_BYTES:
        message = f"{where} must be a path of at most {_MAX_PATH_BYTES} bytes, with names of at most {_MAX_NAME_BYTES}"
        raise InputError(message, got=_brief(str(value)))
    return Path(value)


def _word(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        return _word(get_args(hint)[0])
    if origin is Literal:
        return " or ".join(map(repr, get_args(hint)))
    kind = origin or hint
    if kind is Callable:
        return "a function"
    if kind in (Mapping, dict):
        return "a mapping"
    if kind in (Sequence, Collection, tuple, list):
        return "a list"
    return _WORDS[kind] if kind in _WORDS else str(getattr(kind, "__qualname__", kind))


def _wrong(where: str, word: str, value: Any, *, hint: str | None = None) -> InputError:
    return InputError(f"{where} must be {word}", got=_brief(value), hint=hint)


def _brief(value: Any) -> str:
    """Describe a value in a few words: plain ones by themselves, others by their type."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = ascii(value) if not isinstance(value, int) or abs(value) <= MAX_WHOLE else "a larger number"
        return text if len(text) <= 80 else f"{text[:77]}..."
    return f"a value of type {type(value).__name__}"
