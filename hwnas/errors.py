"""The errors that hwnas raises on purpose, with their exit codes.

    HwnasError
    ├── InputError            1   an invalid file, value, network, or combination of them
    │   └── UnknownNameError  1   an unknown name
    ├── UsageError            2   an invalid command line
    ├── MissingError          3   a device or toolchain that this machine lacks
    └── CheckFailedError      4   a result that failed a check

Any other exception that leaves a command is a bug in hwnas: a traceback and exit code 70. A signal that stops a command
(`Interrupted`) ends with 128 and its number, so Ctrl-C ends with 130.
The message of an error states what must hold; `got`, `known` and `hint` add what was given, which values are valid, and
what to do next.
"""

import difflib
import signal
from collections.abc import Iterable

EXIT_BUG = 70
EXIT_SIGNAL = 128
"""Added to the number of the signal that stopped a command, as shells do."""
_MAX_QUOTED = 200
"""Most characters of a name that a message quotes."""
_MAX_KNOWN = 24
"""Most choices that a message lists."""
_MAX_SHOWN = 2000
"""Most characters of one part of a message, which may quote a file or a name of any length."""
_MIN_BEGINNING = 4
"""Fewest characters of the beginning of a name that stand for it."""
_MAX_SPELLED = 200
"""Most characters of a name that is compared with the known ones, which takes quadratic time."""


class HwnasError(Exception):
    """An error with a remedy, which commands print without a traceback.

    Args:
        message: What must hold.
        got: What was given.
        known: Values that are valid.
        hint: What to try next: an option, a value or a command.
        correction: A misspelled name and the one that was meant. Where the name is on the command line, the command
            with the right one is what is suggested.

    Attributes:
        exit_code: Exit code of a command that ends with this error.
    """

    exit_code = EXIT_BUG

    def __init__(
        self,
        message: str,
        *,
        got: object = None,
        known: Iterable[object] = (),
        hint: str | None = None,
        correction: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.got = got
        self.known = tuple(str(choice) for choice in known)
        self.hint = hint
        self.correction = correction

    def __str__(self) -> str:
        more = len(self.known) - _MAX_KNOWN
        known = ", ".join(self.known[:_MAX_KNOWN]) + (f", and {more} more" if more > 0 else "")
        rows = [("got", "" if self.got is None else str(self.got)), ("known", known), ("try", self.hint or "")]
        return "\n".join([_printable(self.message), *(f"  {name:<8}{_printable(text)}" for name, text in rows if text)])


class InputError(HwnasError):
    """An invalid file, value or network, or an invalid combination of them."""

    exit_code = 1


class UnknownNameError(InputError):
    """A name that is not registered."""


class UsageError(HwnasError):
    """An invalid command line: an unknown option, a missing argument, options that exclude each other."""

    exit_code = 2


class MissingError(HwnasError):
    """A device or toolchain that a command needs and this machine lacks."""

    exit_code = 3


class CheckFailedError(HwnasError):
    """A result that failed a check, after the work was done."""

    exit_code = 4


STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that stop a command in good order; Windows has no SIGHUP."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work.

    Args:
        message: What was kept, and how to resume.
        number: The number of the signal.
    """

    def __init__(self, message: str = "", *, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


def signal_number(error: BaseException | None) -> int:
    """Return the number of the signal that an interrupt or one of its causes names; SIGINT if none does."""
    while error is not None:
        if isinstance(error, Interrupted):
            return error.number
        error = error.__cause__
    return signal.SIGINT


def unknown(what: str, got: str, known: Iterable[str], *, hint: str = "{}") -> UnknownNameError:
    """Make the error for an unknown name, which suggests the nearest known name.

    Args:
        what: What the name stands for.
        got: The name.
        known: All valid names.
        hint: Hint with a placeholder for the nearest valid name; it is left out if no name is near.
    """
    got, choices = str(got), tuple(known)  # callers from Python may pass anything
    near = nearest(got, choices)
    quoted = got if len(got) <= _MAX_QUOTED else f"{got[:_MAX_QUOTED]}..."
    return UnknownNameError(
        f"{what} {quoted!r} is not known",
        got=quoted,
        known=choices,
        hint=hint.format(near) if near else None,
        correction=(got, near) if near else None,
    )


def _printable(text: str) -> str:
    """Shorten a text, and escape characters that a terminal or a file cannot hold: NUL, halves of surrogate pairs."""
    text = text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 100]}... ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def nearest(got: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelled most like the given one or alone begins with it; None: none is similar."""
    if len(got) > _MAX_SPELLED:
        return None
    folded = {choice.casefold(): choice for choice in known}
    longer = [choice for choice in folded if choice.startswith(got.casefold())]
    if len(longer) == 1 and len(got) >= _MIN_BEGINNING:
        return folded[longer[0]]
    # No name is near to a text that is far longer, which would take the comparison long.
    close = difflib.get_close_matches(got[:_MAX_QUOTED].casefold(), folded, n=1, cutoff=0.5)
    return folded[close[0]] if close else None
