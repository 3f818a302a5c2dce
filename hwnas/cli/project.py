"""`hwnas.toml`: the options that the commands of a project have where their command line gives none.

A table for each command, with its options as they are spelled on the command line:

    [train]
    data = "photos"
    epochs = 40
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hwnas.cli.options import PathText
from hwnas.config import shown
from hwnas.errors import InputError, unknown
from hwnas.files import read_text

FILE = Path("hwnas.toml")
"""The file, in the folder that a command is run in."""

_ALTERNATIVES: Mapping[str, frozenset[str]] = {
    "train": frozenset(("space", "arch", "supernet", "model", "elastic", "resume")),
    "profile": frozenset(("space", "supernet", "landmarks", "plan")),
    "search": frozenset(("space", "supernet", "resume")),
}
"""Options that say what a command works on: with one on the command line, the table describes something else."""

_KEPT: Mapping[str, frozenset[str]] = {"train": frozenset(("data",)), "profile": frozenset(("device", "runtime"))}
"""Options of a table that hold for something else, too."""

_KEPT_RESUMED: Mapping[str, frozenset[str]] = {"train": frozenset(("out",))}
"""Options of a table that hold where a run is resumed, which has the others itself."""


def read_project(path: Path, *, commands: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the tables of a project's file.

    Raises:
        InputError: The file is not TOML, or has something else than tables of commands.
    """
    try:
        tables = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML", got=error) from error
    for name, table in tables.items():
        if name not in commands:
            raise unknown(f"{path}: table", name, commands)
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} must be a table", got=shown(table), hint=f"[{name}]")
    return tables


def project_options(
    path: Path, command: click.Command, arguments: Sequence[str], *, commands: Sequence[str]
) -> dict[str, Any]:
    """Return the values that a project's file gives to a command, by parameter.

    Args:
        path: The file; it may be missing.
        command: The command.
        arguments: Its command line, whose options take precedence.
        commands: Names of all commands.

    Raises:
        InputError: The file is not valid, or a value is none that its option allows.
    """
    if not path.is_file():
        return {}
    name = str(command.name)
    table = read_project(path, commands=commands).get(name, {})
    options = {_key(option): option for option in command.params if isinstance(option, click.Option)}
    values = {}
    for key, value in table.items():
        if key not in options:
            raise unknown(f"{path}: {name}: key", key, options)
        values[key] = _converted(options[key], value, where=f"{path}: {name}.{key}")
    given = _given(arguments, options)
    if given & _ALTERNATIVES.get(name, frozenset()):
        kept = _KEPT_RESUMED if "resume" in given else _KEPT
        values = {key: value for key, value in values.items() if key in kept.get(name, frozenset())}
    return {str(options[key].name): value for key, value in values.items() if key not in given}


def _key(option: click.Option) -> str:
    return max(option.opts, key=len).lstrip("-")


def _given(arguments: Sequence[str], options: Mapping[str, click.Option]) -> frozenset[str]:
    """Return the keys of the options on a command line."""
    words = list(arguments)
    words = words[: words.index("--")] if "--" in words else words
    spelled = {word.partition("=")[0] for word in words}
    return frozenset(
        key for key, option in options.items() if spelled.intersection((*option.opts, *option.secondary_opts))
    )


def _converted(option: click.Option, value: object, *, where: str) -> Any:
    """Return the value of an option, as its command line would be converted.

    Raises:
        InputError: The option does not allow the value.
    """
    if option.is_flag:
        if not isinstance(value, bool):
            raise InputError(f"{where} must be true or false", got=shown(value))
        return value
    items = value if isinstance(value, list) else [value]
    is_text = option.type is click.STRING or isinstance(option.type, PathText)
    if not all(isinstance(item, str) or (type(item) in (int, float) and not is_text) for item in items):
        raise InputError(f"{where} must be {'a text' if is_text else 'a number or a text'}", got=shown(value))
    text: Any = [str(item) for item in items] if option.multiple else ",".join(map(str, items))
    try:
        return option.type_cast_value(click.Context(click.Command(None)), text)
    except click.BadParameter as error:
        raise InputError(f"{where}: {error.message.rstrip('.')}", got=shown(value)) from error
