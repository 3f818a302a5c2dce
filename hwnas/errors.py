"""Every error that hwnas raises on purpose, and the exit code of each.

    HwnasError
    ├── InputError            1   what was given cannot work
    │   └── UnknownNameError  1   a name that nothing here has
    ├── UsageError            2   the command line itself is wrong
    ├── MissingError          3   a device or a toolchain is not here
    └── GateError             4   the work was done, but a gate failed

Anything else that leaves a command is our own bug: a traceback and exit code 70. An interrupt ends
with 130. A message says what must hold; `got`, `known` and `hint` say what was found, what would have
been right, and what to do next.
"""

import difflib
from collections.abc import Iterable

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
_MAX_KNOWN = 24
"""Choices listed in one message; a longer list is cut, the nearest kept first."""


class HwnasError(Exception):
    """An error with a remedy: printed without a traceback, ends the command with `exit_code`."""

    exit_code = EXIT_BUG

    def __init__(
        self,
        message: str,
        *,
        got: object = None,
        known: Iterable[object] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.got = got
        self.known = tuple(str(choice) for choice in known)
        self.hint = hint

    def __str__(self) -> str:
        rows = [("got", "" if self.got is None else str(self.got)), ("known", _listed(self.known))]
        rows.append(("try", self.hint or ""))
        return "\n".join([self.message, *(f"  {name:<8}{text}" for name, text in rows if text)])


class InputError(HwnasError):
    """What was given cannot work: a file, a value, a network, a combination of them."""

    exit_code = 1


class UnknownNameError(InputError):
    """A name that nothing here has."""


class UsageError(HwnasError):
    """The command line itself is wrong: an unknown option, a missing argument."""

    exit_code = 2


class MissingError(HwnasError):
    """A device or a toolchain that the command needs is not here."""

    exit_code = 3


class GateError(HwnasError):
    """The work was done, but its result did not pass a gate."""

    exit_code = 4


def unknown(what: str, got: str, known: Iterable[str], *, hint: str = "{}") -> UnknownNameError:
    """The error for a name that is none of `known`; `hint` is completed with the nearest of them."""
    choices = tuple(known)
    near = nearest(got, choices)
    return UnknownNameError(
        f"{what} {got!r} is not known",
        got=got,
        known=choices,
        hint=hint.format(near) if near else None,
    )


def nearest(got: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is spelled most like `got`, or None if none is near."""
    folded = {choice.casefold(): choice for choice in known}
    close = difflib.get_close_matches(got.casefold(), folded, n=1, cutoff=0.5)
    return folded[close[0]] if close else None


def _listed(choices: tuple[str, ...]) -> str:
    more = len(choices) - _MAX_KNOWN
    return ", ".join(choices[:_MAX_KNOWN]) + (f", and {more} more" if more > 0 else "")
