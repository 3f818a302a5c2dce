"""The `hwnas` command: its table of commands, how errors end the process, and shell completion."""

import errno
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import click
from click.shell_completion import ShellComplete, get_completion_class, shell_complete

from hwnas.cli.group import CommandRow, LazyGroup
from hwnas.cli.logs import CommandLog
from hwnas.cli.options import add_log_options, json_option
from hwnas.cli.output import note_start_time, print_json, print_line, wrapped
from hwnas.errors import (
    EXIT_BUG,
    EXIT_SIGNAL,
    STOP_SIGNALS,
    HwnasError,
    InputError,
    Interrupted,
    UsageError,
    nearest,
    signal_number,
)
from hwnas.files import cannot, printable

EXIT_BROKEN_PIPE = 141
"""The exit code that shells report when the reader of a pipe went away: 128 + SIGPIPE."""

_MAX_LINE = 2000
"""Characters of a line of an error; a longer one is cut in the middle."""

_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Reasons why the output cannot be written: a full disk, a limit, or a terminal that is gone."""

COMPLETE_VARIABLE = "_HWNAS_COMPLETE"
"""Environment variable through which a shell asks for completions."""

SHELLS = ("bash", "zsh", "fish")

COMMANDS = (
    CommandRow("doctor", "hwnas.cli.doctor:doctor", "Check the devices, runtimes and packages of this machine."),
    CommandRow("spaces", "hwnas.cli.spaces:spaces", "List the search spaces and their published networks."),
    CommandRow("describe", "hwnas.cli.describe:describe", "Describe a network of a space and its costs."),
    CommandRow("init", "hwnas.cli.init:init", "Write hwnas.toml: options of all commands for these images."),
    CommandRow("train", "hwnas.cli.train:train", "Train a weight-sharing supernet or a single network."),
    CommandRow("evaluate", "hwnas.cli.evaluate:evaluate", "Evaluate networks on held-out or test images."),
    CommandRow("profile", "hwnas.cli.profile:profile", "Measure networks on a device."),
    CommandRow("agent", "hwnas.cli.agent:agent", "Measure what a campaign on another machine asks for."),
    CommandRow("profiles", "hwnas.cli.profiles:profiles", "List measured profiles, show or import one."),
    CommandRow("fit", "hwnas.cli.fit:fit", "Fit latency predictors to measured profiles."),
    CommandRow("predict", "hwnas.cli.predict:predict", "Predict the latency of networks on a device."),
    CommandRow("search", "hwnas.cli.search:search", "Search a space for the best networks for a device."),
    CommandRow("query", "hwnas.cli.query:query", "Show a front under other objectives or constraints."),
    CommandRow("explain", "hwnas.cli.explain:explain", "Explain where the time of a network goes."),
    CommandRow("report", "hwnas.cli.report:report", "Write the report of a search: page, tables, figures."),
    CommandRow("study", "hwnas.cli.study:study", "Export a search for other programs, or compare several."),
    CommandRow("export", "hwnas.cli.export_network:export_network", "Export a network and check it against torch."),
    CommandRow("push", "hwnas.cli.push:push", "Upload a network to the Hugging Face Hub."),
    CommandRow("demo", "hwnas.cli.demo:demo", "Run the whole pipeline at toy size on this CPU."),
    CommandRow("import", "hwnas.cli.import_checkpoint:import_checkpoint", "Convert an official checkpoint."),
    CommandRow("completion", "hwnas.cli.app:completion", "Print the completion script of a shell."),
)
"""All commands; the module of a command is imported when it runs."""

_log = logging.getLogger(__name__)


def _version(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
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
    from hwnas.extensions import load_extensions

    note_start_time(context)
    load_extensions()


add_log_options(hwnas)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@json_option
def completion(shell: str, *, as_json: bool) -> None:
    """Print the completion script of a shell.

    \b
    Add one line to the configuration file of SHELL and start a new shell:
      bash   ~/.bashrc                     eval "$(hwnas completion bash)"
      zsh    ~/.zshrc                      eval "$(hwnas completion zsh)"
      fish   ~/.config/fish/config.fish    hwnas completion fish | source

    bash must be version 4.4 or newer; zsh needs `autoload -Uz compinit && compinit` before that line.
    """  # noqa: D301 - with a backslash and a b, click keeps the lines of this paragraph
    script = completion_script(shell)
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        print_line(script.strip(), wrap=False)


def completion_script(shell: str) -> str:
    """Return click's completion script of `hwnas` for a shell, without running the shell."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    # The class for bash would first start a bash to check its version; the help names the version instead.
    return ShellComplete.source(kind(hwnas, {}, "hwnas", COMPLETE_VARIABLE))


def run(arguments: Sequence[str], *, exiting: bool = False) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: The words after `hwnas`.
        exiting: The process ends next: signals that would end it otherwise are ignored from then on.
    """
    with _interrupt_on_signals(exiting=exiting) as report_alone, CommandLog(arguments) as log:
        try:
            instruction = os.environ.get(COMPLETE_VARIABLE)
            code = _complete(instruction) if instruction else _execute(list(arguments), log)
            sys.stdout.flush()
        except Exception as error:
            report_alone()
            code = _exit_code(error, arguments)
        except KeyboardInterrupt as interrupt:
            report_alone()
            code = _report_interrupt(interrupt)
    return code


@contextmanager
def _interrupt_on_signals(*, exiting: bool) -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does; one that is ignored, as under nohup, stays ignored.

    Yields:
        A function that makes further signals have no effect, for the time in which the first one is reported: at logout
        SIGHUP and SIGTERM come together.
    """
    is_reporting = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not is_reporting:
            raise Interrupted(number=number)

    def report_alone() -> None:
        nonlocal is_reporting
        is_reporting = True

    before = {}
    if threading.current_thread() is threading.main_thread():  # Python sets handlers in the main thread only
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        defaults = (signal.SIG_DFL, signal.default_int_handler)
        before = {number: handler for number, handler in handlers.items() if handler in defaults}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield report_alone
    finally:
        report_alone()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if exiting else handler)


def _complete(instruction: str) -> int:
    """Answer the completion script of a shell."""
    try:
        code = shell_complete(hwnas, {}, "hwnas", COMPLETE_VARIABLE, instruction)
    except HwnasError:  # a message would be printed into the line that is being typed
        return 1
    except (KeyError, ValueError):
        code = 1
    if code != 0:
        message = f"{COMPLETE_VARIABLE} is set by completion scripts only, together with COMP_WORDS and COMP_CWORD"
        raise InputError(message, got=printable(instruction), hint=f"unset {COMPLETE_VARIABLE}")
    return code


def _execute(arguments: list[str], log: CommandLog) -> int:
    # Like click's `hwnas.main`, without its own handling of errors and broken pipes.
    for argument in arguments:
        # It is written to manifests and logs, which are UTF-8.
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            hint = "rename the file, or use a UTF-8 locale such as LC_ALL=C.UTF-8"
            raise UsageError("arguments must be valid text", got=printable(argument), hint=hint) from error
    try:
        with hwnas.make_context("hwnas", arguments, obj=log) as context:
            code = hwnas.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return True if a command line asks for JSON; it may be one that could not be parsed."""
    words = list(arguments)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _exit_code(error: Exception, arguments: Sequence[str]) -> int:
    """Print the error of a command line in the form that suits it, and return the exit code."""
    as_json = _wants_json(arguments)
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        _discard_output()
        return EXIT_BROKEN_PIPE
    if isinstance(error, HwnasError):
        error.hint = _corrected(arguments, error.correction) or error.hint
        return _report_error(error, as_json=as_json)
    if isinstance(error, OSError) and error.errno is not None:  # what the system refuses is no bug
        return _report_error(_system_error(error), as_json=as_json)
    if isinstance(error, MemoryError):
        message = "the command needs more memory than this machine has free"
        refused = InputError(message, got=str(error) or None, hint="a smaller batch, image or model")
        return _report_error(refused, as_json=as_json)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _print_error(error.format_message())
        return UsageError.exit_code
    if isinstance(error, click.ClickException):
        usage = _usage_error(error, arguments)
        usage.hint = _corrected(arguments, usage.correction) or usage.hint
        return _report_error(usage, as_json=as_json)
    if isinstance(error, click.Abort):
        return _report_interrupt(error)
    _log.critical("a bug", exc_info=error)
    _print_error("".join(traceback.format_exception(error)).rstrip("\n"))
    _print_error("This is a bug in hwnas. Please report it, with the lines above and `hwnas doctor --json`.")
    return EXIT_BUG


def _corrected(arguments: Sequence[str], correction: tuple[str, str] | None) -> str | None:
    """Return the command that was typed with the one misspelled name of it put right; None: it is not in one word."""
    if correction is None:
        return None
    wrong = re.compile(rf"(?<![^,:=]){re.escape(correction[0])}(?![^,:=])")
    words = [wrong.sub(lambda _: correction[1], word) for word in arguments]
    changed = sum(word != typed for word, typed in zip(words, arguments, strict=True))
    return shlex.join(["hwnas", *words]) if changed == 1 else None


def _system_error(error: OSError) -> InputError:
    """Name the file that the system refuses; without a name it is the output, or nothing that is known."""
    if error.filename is not None:
        return cannot("used", error.filename, error)
    if error.errno in _OUTPUT_ERRORS:
        _discard_output()
        return cannot("written", "the output", error)
    return cannot("completed", "the command", error)


def _report_error(error: HwnasError, *, as_json: bool) -> int:
    _log.error("%s", error)
    _log.debug("raised at", exc_info=error)
    if as_json:
        with suppress(OSError):
            click.echo(_error_json(error), err=True)
    else:
        _print_error(f"error: {error}")
    return error.exit_code


def _error_json(error: HwnasError) -> str:
    """Return an error as one line of JSON, whose texts are cut like those of its message."""
    texts = {"message": error.message, "got": error.got, "hint": error.hint}
    values = {name: None if text is None else printable(str(text), limit=_MAX_LINE) for name, text in texts.items()}
    known = [printable(choice, limit=_MAX_LINE) for choice in error.known]
    return json.dumps({"error": {"kind": type(error).__name__, **values, "known": known}, "exit_code": error.exit_code})


def _print_error(text: str) -> None:
    # Texts from files may have control characters, which a terminal would obey.
    text = "\n".join(printable(line, limit=_MAX_LINE) for line in text.split("\n"))
    # The exit code says what happened even if the terminal is gone or its disk is full.
    with suppress(OSError):
        click.echo(wrapped(text, sys.stderr), err=True)


def _report_interrupt(interrupt: BaseException) -> int:
    number = signal_number(interrupt)
    text = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    if str(interrupt):  # what was kept, and how to resume
        text += f": {interrupt}"
    _log.error("%s", text)
    _print_error(text)
    return EXIT_SIGNAL + number


def _discard_output() -> None:
    # The interpreter flushes stdout when it exits: what is still buffered must not raise again.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _usage_error(error: click.ClickException, arguments: Sequence[str]) -> UsageError:
    """Turn an error of click in a command line into ours, with the nearest known option."""
    context = getattr(error, "ctx", None)
    named = [word for word in arguments if word in hwnas.rows][:1]  # click forgets the command of a missing argument
    path = context.command_path if context else " ".join(["hwnas", *named])
    if isinstance(error, click.NoSuchOption):
        parameters = context.command.get_params(context) if context else []
        known = [spelling for parameter in parameters for spelling in parameter.opts if spelling[0] == "-"]
        option, near = error.option_name, nearest(error.option_name, known)
        if option == "--dry-run" and "--plan-only" in known:
            near, hint = None, f"{path} --plan-only --out plan.jsonl"
        else:
            hint = f"{path} {near or '--help'}"
        correction = None if near is None else (option, near)
        return UsageError(f"option {option!r} is not known", got=option, known=known, hint=hint, correction=correction)
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=f"{path} --help")
