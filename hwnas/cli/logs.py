"""Logging options of every command: `-v`, `-q` and `--log-file`."""

import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hwnas.errors import InputError, UsageError

_PACKAGE = "hwnas"
_FILE_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
_log = logging.getLogger(__name__)


class CommandLog:
    """The log handlers of one command: stderr for what the user asked to see, and a file for everything.

    Args:
        arguments: the words of the command line, which the log file begins with.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.quiet = False
        self._verbosity = 0
        self._arguments = arguments
        self._console = _ConsoleHandler()
        self._file: logging.FileHandler | None = None
        self._logger = logging.getLogger(_PACKAGE)
        self._level_before = self._logger.level

    def __enter__(self) -> Self:
        self._logger.addHandler(self._console)
        self._set_levels()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logger.setLevel(self._level_before)
        self._logger.removeHandler(self._console)
        if self._file is not None:
            self._logger.removeHandler(self._file)
            self._file.close()

    def add_verbosity(self, count: int) -> None:
        """Show INFO records on stderr, and DEBUG records from the second time on."""
        self._verbosity += count
        self._set_levels()

    def be_quiet(self) -> None:
        """Show nothing on stderr but errors."""
        self.quiet = True
        self._set_levels()

    def write_to(self, path: Path) -> None:
        """Append all records to a file as well.

        Raises:
            InputError: The file cannot be written.
        """
        if path.exists() and not (path.is_file() or path.is_char_device()):  # a named pipe would wait for a reader
            raise InputError(f"the log file {path} must be an ordinary file")
        try:
            file = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(f"the log file {path} must be writable", got=error.strerror) from error
        if self._file is not None:  # given before and after the subcommand: the last one counts
            self._logger.removeHandler(self._file)
            self._file.close()
        self._file = file
        file.setFormatter(logging.Formatter(_FILE_FORMAT))
        self._logger.addHandler(file)
        self._set_levels()
        _log.info("command: %s", shlex.join(("hwnas", *self._arguments)))

    def _set_levels(self) -> None:
        if self.quiet and self._verbosity:
            raise UsageError("--quiet and --verbose exclude each other")
        level = logging.ERROR if self.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(self._verbosity, 2)]
        self._console.setLevel(level)
        self._console.setFormatter(_ConsoleFormatter(verbose=self._verbosity > 0))
        self._logger.setLevel(level if self._file is None else logging.DEBUG)


class _ConsoleHandler(logging.Handler):
    """Writes to whatever stderr is at the moment: a bar on a terminal replaces it to keep lines above itself."""

    def __init__(self) -> None:
        super().__init__()
        # The command line shows its own messages and errors itself; their records are for the file.
        self.addFilter(lambda record: not record.name.startswith(f"{_PACKAGE}.cli"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # as the handlers of the standard library do
            self.handleError(record)


class _LogFile(logging.FileHandler):
    """A log file that is given up, with one warning, when it cannot be written any more: the work is worth more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name in the standard library
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.addFilter(lambda record: False)
        with suppress(OSError):
            sys.stderr.write(f"warning: the log file {self.baseFilename} is no longer written: {error.strerror}\n")

    def close(self) -> None:
        # What is still buffered cannot be written either.
        with suppress(OSError):
            super().close()


class _ConsoleFormatter(logging.Formatter):
    def __init__(self, *, verbose: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(message)s", "%H:%M:%S")
        self._verbose = verbose

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if self._verbose else f"{record.levelname.lower()}: {text}"
