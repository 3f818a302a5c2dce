"""Options that several commands share."""

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from hwnas.cli.logs import CommandLog
from hwnas.config import shown
from hwnas.files import printable

Command = TypeVar("Command", bound=Callable[..., Any])

_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4095
"""Limits of Linux; others have similar ones."""


class PathText(click.Path):
    """A path that the system can hold. What it names is checked where it is used."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Convert a text."""
        path = Path(value)
        text = os.fsencode(path)
        if not os.fspath(value):
            self.fail("a path must not be empty.", param, ctx)
        if len(text) > _MAX_PATH_BYTES or max(map(len, text.split(os.sep.encode()))) > _MAX_NAME_BYTES:
            message = f"each name in a path must have at most {_MAX_NAME_BYTES} bytes, and the path {_MAX_PATH_BYTES}"
            self.fail(f"{message}; got {printable(path)}.", param, ctx)
        return path


PATH = PathText()


class Whole(click.IntRange):
    """A whole number with bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Convert a text; every error names the bounds."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{shown(value)} is not a whole number in the range {self._describe_range()}.", param, ctx)


class Number(click.FloatRange):
    """A number with bounds, which is never NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert a text; every error names the bounds."""
        with suppress(click.BadParameter):
            number = float(super().convert(value, param, ctx))
            if number == number:  # NaN is less than no bound, and passes click's own check
                return number
        self.fail(f"{shown(value)} is not a number in the range {self._describe_range()}.", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """Comma-separated names, which are checked where they are used."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Convert the names of a text."""
        names = value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail("names are separated by single commas.", param, ctx)
        return names


class BatchesOrPeak(click.ParamType[tuple[int | None, ...]]):
    """Comma-separated batch sizes; `peak` stands for one that is still to be found and becomes None."""

    name = "batches"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None, ...]:
        """Convert the batch sizes of a text."""
        if isinstance(value, tuple):
            return value
        return tuple(None if part == "peak" else BATCH.convert(part, param, ctx) for part in str(value).split(","))


class BatchOrDynamic(click.ParamType[int | None]):
    """A batch size; `dynamic` or `any` stands for any and becomes None."""

    name = "batch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Convert a text."""
        return None if value in ("dynamic", "any") else BATCH.convert(value, param, ctx)


class BatchOrAuto(click.ParamType[int | str]):
    """A batch size; `auto` stands for itself."""

    name = "batch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Convert a text."""
        return "auto" if value == "auto" else BATCH.convert(value, param, ctx)


# Bounds of numeric options. None has a use beyond them, and a mistyped number ends here, not after an hour.
COUNT = Whole(1, 1_000_000_000)
COUNT_OR_ZERO = Whole(0, 1_000_000_000)
EPOCHS = Whole(1, 100_000)
EPOCHS_OR_ZERO = Whole(0, 100_000)
PAIRS = Whole(8, 100_000)
BATCH = Whole(1, 65_536)
THREADS = Whole(1, 1024)
WORKERS = Whole(0, 1024)
IMAGE_SIZE = Whole(1, 16_384)
CLASSES = Whole(1, 1_000_000)
PORT = Whole(0, 65_535)
SEED = Whole(0, 2**32 - 1)
MINUTES = Number(0, 1_000_000, min_open=True)
CONFIDENCE = Number(0, 1, min_open=True, max_open=True)
BATCHES = BatchesOrPeak()
NAMES = Names()
THREADS_OR_AUTO = Whole(0, 1024)
HELDOUT = Number(0, 1_000_000_000)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
"""`--json`: the command gets `as_json` and prints its result with `print_json`."""

evaluate_on_option = click.option(
    "--evaluate-on",
    metavar="WORKERS",
    show_default="this process",
    help="Evaluate networks on local:N processes, or on ray or ray:ADDRESS.",
)
"""`--evaluate-on`: a text that `EvaluateOn.parse` reads."""

profiles_option = click.option(
    "--profiles",
    type=PATH,
    help="Folder of profiles to use instead of the usual ones (HWNAS_PROFILES).",
)

predictors_option = click.option(
    "--predictors",
    type=PATH,
    help="Folder of predictors to use instead of the usual ones (HWNAS_PREDICTORS).",
)


def with_options(*groups: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Return a decorator that adds groups of options to a command, in the order in which they are given."""

    def add(command: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


def given_options(context: click.Context, *, except_for: Collection[str]) -> list[str]:
    """Return the options and arguments on the command line, without the log options.

    Args:
        context: Context of the command.
        except_for: Names of parameters to leave out.
    """
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.expose_value
        and parameter.name not in except_for
        and context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
    ]


def _command_log(context: click.Context) -> CommandLog:
    log = context.find_object(CommandLog)
    assert log is not None, "a command is run within a CommandLog"
    return log


def _verbose(context: click.Context, parameter: click.Parameter, count: int) -> None:
    if count and not context.resilient_parsing:
        _command_log(context).add_verbosity(count)


def _quiet(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given and not context.resilient_parsing:
        _command_log(context).be_quiet()


def _log_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is not None and not context.resilient_parsing:
        _command_log(context).write_to(path)


LOG_OPTIONS = (
    click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        is_eager=True,
        callback=_verbose,
        help="Log what happens to stderr; -vv logs details.",
    ),
    click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_quiet,
        help="Print results and errors only.",
    ),
    click.Option(
        ["--log-file"],
        type=PATH,
        expose_value=False,
        is_eager=True,
        callback=_log_file,
        help="Append a detailed log to this file.",
    ),
)
"""`-v`, `-q` and `--log-file`, before or after the name of the command."""


def add_log_options(command: click.Command) -> click.Command:
    """Give a command and its subcommands the log options, after their own options."""
    if LOG_OPTIONS[0] not in command.params:
        command.params.extend(LOG_OPTIONS)
    for subcommand in command.commands.values() if isinstance(command, click.Group) else ():
        add_log_options(subcommand)
    return command
