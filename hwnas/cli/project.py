"""`hwnas.toml`: the options that the commands of a project have where their command line gives none.

A table for each command, with its options as they are spelled on the command line:

    [train]
    data = "photos"
    epochs = 40
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hwnas.cli.logs import CommandLog
from hwnas.cli.options import PathText
from hwnas.config import shown
from hwnas.devices import resolve
from hwnas.errors import HwnasError, InputError, UsageError, unknown
from hwnas.files import read_text
from hwnas.runs import Run

FILE = Path("hwnas.toml")
"""The file, in the folder that a command is run in."""

_ALTERNATIVES: Mapping[str, frozenset[str]] = {
    "train": frozenset(("space", "arch", "supernet", "model", "elastic", "resume")),
    "profile": frozenset(("space", "supernet", "landmarks", "plan")),
    "search": frozenset(("space", "supernet", "resume")),
}
"""Options that say what a command works on: with one on the command line, the table describes something else."""

_DESCRIBING: Mapping[str, frozenset[str]] = {
    "train": frozenset(
        [
            "task",
            "head",
            "scratch",
            "sizes",
            "pretrained",
            "checkpoint",
            "image-size",
            "recipe",
            "config",
            "set",
            "epochs",
            "batch",
            "teacher",
            "teacher-weights",
            "out",
        ]
    ),
    "profile": frozenset(("classes", "image-size")),
    "search": frozenset(("data", "strategy", "levels", "out")),
}
"""Options that hold for what a command works on, and are left out together with it."""

_EXCLUDED: Mapping[str, Mapping[str, frozenset[str]]] = {
    "train": {
        "data": frozenset(("root", "download")),
        "pretrained": frozenset(("checkpoint",)),
        "checkpoint": frozenset(("pretrained",)),
    },
    "profile": {
        "samples": frozenset(("minutes",)),
        "minutes": frozenset(("samples",)),
        "landmarks": frozenset(("samples", "minutes", "until", "order", "reference-networks")),
        "plan": frozenset(("samples", "minutes", "until", "order")),
        "plan-only": frozenset(("minutes", "until", "order")),
    },
}
"""Options of a table that one of the command line excludes."""

_KEPT_RESUMED: Mapping[str, frozenset[str]] = {"train": frozenset(("out",))}
"""Options of a table that hold where a run is resumed, which has the others itself."""

_TABLES = "hwnas.project"
"""Key of the tables of the project's file in the metadata of a command's context."""


def read_project(path: Path, *, commands: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the tables of a project's file.

    Raises:
        InputError: The file is not TOML, or has something else than tables of commands.
    """
    text = read_text(path)
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not TOML", got=error, hint=_quoted(text, str(error))) from error
    for name, table in tables.items():
        if name not in commands:
            raise unknown(f"{path}: table", name, commands, hint="[{}]")
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} must be a table", got=shown(table), hint=f"[{name}]")
    return tables


def _quoted(text: str, problem: str) -> str | None:
    """Return the line that a problem of TOML names with its value in quotes; None: it has no value without them."""
    place = re.search(r"at line (\d+)", problem)
    line = text.splitlines()[int(place[1]) - 1] if place else ""
    bare = re.fullmatch(r"\s*([\w-]+)\s*=\s*([^\"'\[{\s#][^\"'#]*?)\s*(#.*)?", line)
    return None if bare is None else f'{bare[1]} = "{bare[2]}"'


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
            raise unknown(f"{path}: {name}: key", key, options, hint=f"{{}} in [{name}]")
        values[key] = _converted(options[key], value, where=f"{path}: {name}.{key}")
    given = _given(arguments, options)
    if "resume" in given:
        kept = _KEPT_RESUMED.get(name, frozenset())
        values = {key: value for key, value in values.items() if key in kept}
    excluded = given.union(*(_EXCLUDED.get(name, {}).get(key, frozenset()) for key in given))
    if "resume" not in given and given & _ALTERNATIVES.get(name, frozenset()):
        excluded |= _ALTERNATIVES[name] | _DESCRIBING[name]
    return {str(options[key].name): value for key, value in values.items() if key not in excluded}


def project_words(
    path: Path, command: click.Command, values: Mapping[str, Any], *, commands: Sequence[str]
) -> list[str]:
    """Return the values of `project_options` as words of a command line."""
    if not values:
        return []
    options = {_key(option): option for option in command.params if isinstance(option, click.Option)}
    words: list[str] = []
    for key, value in read_project(path, commands=commands)[str(command.name)].items():
        spelling = f"--{key}"
        if options[key].name not in values or value is False:
            continue
        if value is True:
            words.append(spelling)
        elif options[key].multiple and isinstance(value, list):
            words += [word for item in value for word in (spelling, str(item))]
        else:
            words += [spelling, ",".join(map(str, value if isinstance(value, list) else [value]))]
    return words


def note_tables(context: click.Context, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Remember the tables of the project's file, for the command that is suggested next."""
    context.meta[_TABLES] = tables


def in_project(words: Sequence[str]) -> tuple[str, ...]:
    """Return a command without the options that the project's file gives it.

    Args:
        words: The words of a command line, as a command suggests it.
    """
    tables = click.get_current_context().meta.get(_TABLES, {})
    table = tables.get(words[1]) if len(words) > 1 else None
    if table is None or not all(word.startswith("--") for word in words[2:3]):
        return tuple(words)
    options: list[tuple[str, ...]] = []
    for word in words[2:]:
        options = [*options, (word,)] if word.startswith("--") else [*options[:-1], (*options[-1], word)]
    others = [option for option in options if not _is_given(option, table, tables)]
    if any(option[0].lstrip("-") in _ALTERNATIVES.get(words[1], ()) for option in others):
        return tuple(words)
    return (*words[:2], *(word for option in others for word in option))


def project_supernet(space: str) -> str | None:
    """Return the supernet of the project's file, if it is one of a space."""
    tables = click.get_current_context().meta.get(_TABLES, {})
    supernet = tables.get("search", {}).get("supernet")
    return supernet if _space_of(supernet, tables) == space else None


def project_data() -> str | None:
    """Return the images that the project's file names for a training."""
    data = click.get_current_context().meta.get(_TABLES, {}).get("train", {}).get("data")
    return data if isinstance(data, str) else None


def project_run(what: str = "the run of a search") -> Path:
    """Return the run of the project's search, for a command that names none, and say so.

    Args:
        what: The argument that is missing, for the error.

    Raises:
        UsageError: There is no file, or its search has no `out`.
    """
    context = click.get_current_context()
    run = context.meta.get(_TABLES, {}).get("search", {}).get("out")
    if not isinstance(run, str):
        message = f"{what} must be given, or be out in [search] of {FILE} in this folder"
        got = f"no [search] out in {FILE}" if FILE.is_file() else f"no argument, and no {FILE}"
        raise UsageError(message, got=got, hint=f"{context.command_path} runs/NAME")
    log = context.find_object(CommandLog)
    if log is not None and not log.quiet:
        click.echo(f"{FILE}: {run}", err=True)
    return Path(run)


def _is_given(option: tuple[str, ...], table: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return True if a table has an option with this value, or one in its place."""
    key, value = option[0].lstrip("-"), ",".join(option[1:])
    if key == "objective":  # what is searched for is the user's choice; a suggestion is but an example
        return key in table
    if key not in table:
        is_of_supernet = key in ("space", "image-size", "classes") and "supernet" in table
        return is_of_supernet and (key != "space" or _space_of(table["supernet"], tables) == value)
    found = table[key] if isinstance(table[key], list) else [table[key]]
    if key == "device":
        try:
            return [resolve(str(name)) for name in found] == [resolve(value)]
        except HwnasError:
            return False
    return ",".join(map(str, found)) == value


def _space_of(supernet: object, tables: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the space of a training, or the one that the project is to train there; None: there is neither."""
    if not isinstance(supernet, str):
        return None
    try:
        space = Run.open(Path(supernet)).manifest.config.get("space")
    except HwnasError:
        training = tables.get("train", {})
        space = training.get("space") if training.get("out") == supernet else None
    return None if space is None else str(space)


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
