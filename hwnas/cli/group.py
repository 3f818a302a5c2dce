"""A click group that imports a command when it runs."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from hwnas.cli.complete import add_completion
from hwnas.cli.options import add_log_options
from hwnas.errors import UsageError, nearest


class CommandRow(NamedTuple):
    """A command: its name, its target `module:attribute`, and its summary in the help."""

    name: str
    target: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows the names and summaries of its commands without importing them.

    Args:
        rows: The commands, in the order of the help.
    """

    def __init__(self, *arguments: Any, rows: Sequence[CommandRow] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rows = {row.name: row for row in rows}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of the help."""
        return list(self.rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None if there is none of that name."""
        row = self.rows.get(cmd_name)
        return None if row is None else load(row)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments start with.

        Raises:
            UsageError: There is none of that name; it suggests the nearest one.
        """
        name = args[0]
        if name not in self.rows and not name.startswith("-") and not ctx.resilient_parsing:
            hint = f"{ctx.command_path} {nearest(name, self.rows) or '--help'}"
            raise UsageError(f"command {name!r} is not known", got=name, known=self.rows, hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries of the commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.summary) for row in self.rows.values()])


def load(row: CommandRow) -> click.Command:
    """Import a command and add the options that every command has."""
    module, attribute = row.target.split(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command), row
    add_completion(command)
    return add_log_options(command)
