"""Options that several commands share, and groups of options."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
"""`--json`: the command gets `as_json` and prints its result with `print_json`."""


def given_options(context: click.Context, *, except_for: Collection[str]) -> list[str]:
    """Return the options and arguments that stand on the command line, but for some and for those of every command."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.expose_value
        and parameter.name not in except_for
        and context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
    ]


def with_options(*groups: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """Give a command the options of several groups, in the order in which they are written."""

    def add(command: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add
