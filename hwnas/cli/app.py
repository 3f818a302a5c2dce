"""The `hwnas` command, and how whatever a command raises ends the process."""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from hwnas.cli.group import CommandRow, LazyGroup
from hwnas.cli.logs import CommandLog, add_log_options
from hwnas.errors import EXIT_BUG, EXIT_INTERRUPTED, HwnasError, InputError, UsageError, nearest

EXIT_BROKEN_PIPE = 141
"""What a shell reports of a program whose reader went away: 128 + SIGPIPE."""

COMPLETE = "_HWNAS_COMPLETE"
"""The variable through which a shell asks for completions."""

_log = logging.getLogger(__name__)

COMMANDS = (
    CommandRow("doctor", "hwnas.cli.doctor:doctor", "What this machine can measure, and what is missing."),
    CommandRow("spaces", "hwnas.cli.spaces:spaces", "The search spaces and their published networks."),
    CommandRow("describe", "hwnas.cli.describe:describe", "What one network of a space costs."),
    CommandRow("train", "hwnas.cli.train:train", "A weight-sharing supernet, or one network of it, trained."),
    CommandRow("evaluate", "hwnas.cli.evaluate:evaluate", "How well networks do on held-out or test pictures."),
    CommandRow("profile", "hwnas.cli.profile:profile", "Networks exported and timed on a device."),
    CommandRow("profiles", "hwnas.cli.profiles:profiles", "What was measured, and how good it is."),
    CommandRow("fit", "hwnas.cli.fit:fit", "Predictors fitted to what was measured, and how good they are."),
    CommandRow("predict", "hwnas.cli.predict:predict", "What networks would take on a device, and how sure that is."),
    CommandRow("search", "hwnas.cli.search:search", "The best networks for a device, measured there."),
    CommandRow("query", "hwnas.cli.query:query", "A search asked again, without searching."),
    CommandRow("explain", "hwnas.cli.explain:explain", "Where the time of a network goes, and why it is not faster."),
    CommandRow("report", "hwnas.cli.report:report", "What a search found: one page, tables, figures."),
    CommandRow("export", "hwnas.cli.export_network:export_network", "A network in a file, checked against torch."),
    CommandRow("demo", "hwnas.cli.demo:demo", "All of it, small, on this CPU, in minutes."),
    CommandRow("import", "hwnas.cli.import_checkpoint:import_checkpoint", "An official checkpoint turned into ours."),
    CommandRow("completion", "hwnas.cli.completion:completion", "The script that lets a shell complete commands."),
)
"""Every command: its module is imported only when it runs."""


def _version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from hwnas.runs import hwnas_version

        click.echo(f"hwnas {hwnas_version()}")
        context.exit()


@click.group(cls=LazyGroup, rows=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def hwnas(context: click.Context, /) -> None:
    """Find the best vision transformers for a device, measured on the device."""
    from hwnas.cli.ending import note_the_time
    from hwnas.extensions import load_extensions

    note_the_time(context)
    load_extensions()


add_log_options(hwnas)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    with CommandLog(arguments) as log:
        try:
            code = _execute(list(arguments), log)
            sys.stdout.flush()
        except Exception as error:
            return _ended_by(error)
        except KeyboardInterrupt as stopped:
            return _interrupted(stopped)
    return code


def _execute(arguments: list[str], log: CommandLog) -> int:
    # What `hwnas.main` of click does, but for its own answers to errors and to broken pipes.
    completing = os.environ.get(COMPLETE)
    if completing:
        return shell_complete(hwnas, {}, "hwnas", COMPLETE, completing)
    try:
        with hwnas.make_context("hwnas", arguments, obj=log) as context:
            code = hwnas.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return code if isinstance(code, int) else 0


def _ended_by(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        _drop_output()
        return EXIT_BROKEN_PIPE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _drop_output()
        return _told(InputError(f"{error.filename or 'the output'} cannot be written", got=error.strerror))
    if isinstance(error, HwnasError):
        return _told(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return UsageError.exit_code
    if isinstance(error, click.ClickException):
        return _told(_usage_error(error))
    if isinstance(error, click.Abort):
        return _interrupted(error)
    return _bug(error)


def _told(error: HwnasError) -> int:
    _log.error("%s", error)
    _log.debug("raised at", exc_info=error)
    click.echo(f"error: {error}", err=True)
    return error.exit_code


def _interrupted(stopped: BaseException) -> int:
    reason = str(stopped)  # what was saved, and how to resume
    text = f"interrupted: {reason}" if reason else "interrupted"
    _log.error("%s", text)
    click.echo(text, err=True)
    return EXIT_INTERRUPTED


def _bug(error: Exception) -> int:
    _log.critical("a bug", exc_info=error)
    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo(
        "This is a bug in hwnas. Please report it, with the lines above and what `hwnas doctor --json` says.",
        err=True,
    )
    return EXIT_BUG


def _drop_output() -> None:
    # What is still buffered must go somewhere when the interpreter flushes stdout at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _usage_error(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "hwnas"
    if isinstance(error, click.NoSuchOption):
        return _unknown_option(error.option_name, context, path)
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=f"{path} --help")


def _unknown_option(option: str, context: click.Context | None, path: str) -> UsageError:
    parameters = context.command.get_params(context) if context else []
    known = [spelling for parameter in parameters for spelling in parameter.opts if spelling[0] == "-"]
    return UsageError(
        f"option {option!r} is not known",
        got=option,
        known=known,
        hint=f"{path} {nearest(option, known) or '--help'}",
    )
