"""Options that several commands share."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from hwnas.cli.logs import CommandLog

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


class Number(click.FloatRange):
    """A number with bounds, which is never NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a text; NaN is less than no bound, and would pass click's own check."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


# Bounds of numeric options. None has a use beyond them, and a mistyped number ends here, not after an hour.
COUNT = click.IntRange(1, 1_000_000_000)
COUNT_OR_ZERO = click.IntRange(0, 1_000_000_000)
EPOCHS = click.IntRange(1, 100_000)
PAIRS = click.IntRange(8, 100_000)
BATCH = click.IntRange(1, 65_536)
THREADS = click.IntRange(1, 1024)
WORKERS = click.IntRange(0, 1024)
IMAGE_SIZE = click.IntRange(1, 16_384)
CLASSES = click.IntRange(1, 1_000_000)
SEED = click.IntRange(0, 2**32 - 1)
MINUTES = Number(0, 1_000_000, min_open=True)
CONFIDENCE = Number(0, 1, min_open=True, max_open=True)
AT_LEAST_0 = COUNT_OR_ZERO
AT_LEAST_1 = COUNT

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
"""`--json`: the command gets `as_json` and prints its result with `print_json`."""

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
        type=click.Path(path_type=Path, dir_okay=False),
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
