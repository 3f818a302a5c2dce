"""A click group that imports a command when it runs."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import click

from hwnas.cli.complete import add_completion
from hwnas.cli.logs import CommandLog
from hwnas.cli.options import add_log_options
from hwnas.cli.project import FILE, note_tables, project_options, project_words, read_project
from hwnas.errors import UsageError, nearest
from hwnas.runs import note_project_words, note_run_commands


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
            near = nearest(name, self.rows)
            hint, correction = f"{ctx.command_path} {near or '--help'}", None if near is None else (name, near)
            message = f"command {name!r} is not known"
            raise UsageError(message, got=name, known=self.rows, hint=hint, correction=correction)
        found, command, words = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            words = _with_resumed_run(words) if name == "train" else words
            self._read_project(ctx, command, words)
        return found, command, words

    def _read_project(self, ctx: click.Context, command: click.Command, args: list[str]) -> None:
        """Give a command the options that the project's file has for it, and say so."""
        if FILE.is_file():
            tables = read_project(FILE, commands=list(self.rows))
            note_tables(ctx, tables)
            note_run_commands(
                {
                    str(Path(run)): f"hwnas {name}"
                    for name in ("train", "search")
                    if isinstance(run := tables.get(name, {}).get("out"), str)
                }
            )
        values = project_options(FILE, command, args, commands=list(self.rows))
        note_project_words(project_words(FILE, command, values, commands=list(self.rows)))
        if not values or {"-h", "--help"}.intersection(args):
            return
        ctx.default_map = {str(command.name): values}
        log = ctx.find_object(CommandLog)
        if log is not None and not log.quiet and not {"-q", "--quiet"}.intersection(args):
            click.echo(f"{FILE}: {', '.join(_spelled(command, values))}", err=True)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries of the commands into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.summary) for row in self.rows.values()])


def _with_resumed_run(args: Sequence[str]) -> list[str]:
    """Return the arguments of a training with `--resume RUN`, as a search has it, as `--resume --out RUN`."""
    words = list(args)
    place = words.index("--resume") + 1 if "--resume" in words else len(words)
    has_out = any(word.partition("=")[0] == "--out" for word in words)
    if has_out or place == len(words) or words[place].startswith("-"):
        return words
    return [*words[:place], "--out", *words[place:]]


def _spelled(command: click.Command, values: Mapping[str, Any]) -> Iterator[str]:
    """Spell options with their values as on a command line."""
    for parameter in command.params:
        if parameter.name in values:
            value = values[parameter.name]
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield parameter.opts[0] if value is True else f"{parameter.opts[0]} {text}"


def load(row: CommandRow) -> click.Command:
    """Import a command and add the options that every command has."""
    module, attribute = row.target.split(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command), row
    add_completion(command)
    return add_log_options(command)
