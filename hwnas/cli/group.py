"""A click group whose commands are rows of a table, imported only when they run."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from hwnas.cli.logs import add_log_options
from hwnas.errors import UsageError, nearest


class CommandRow(NamedTuple):
    """One command: its name, where it is (`module:attribute`), and its line in the help."""

    name: str
    target: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries without importing them."""

    def __init__(self, *arguments: Any, rows: Sequence[CommandRow] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rows = {row.name: row for row in rows}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table: that of a user's work."""
        return list(self.rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None if there is none of that name."""
        row = self.rows.get(cmd_name)
        return None if row is None else load(row)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with; another word is an error with the nearest name."""
        name = args[0]
        if name not in self.rows and not name.startswith("-") and not ctx.resilient_parsing:
            near = nearest(name, self.rows)
            hint = f"{ctx.command_path} {near or '--help'}"
            raise UsageError(f"command {name!r} is not known", got=name, known=self.rows, hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.summary) for row in self.rows.values()])


def load(row: CommandRow) -> click.Command:
    """Import the command of a row, and give it the options that every command has."""
    module, attribute = row.target.split(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command), row
    return add_log_options(command)
