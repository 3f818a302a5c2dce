"""Log records of a worker process, sent to the process that started it and logged there."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, fields

from hwnas.config import from_mapping

PACKAGE = "hwnas"
_LEVEL = "HWNAS_WORKER_LOG_LEVEL"
"""Environment variable of a worker process: the level of the records that are wanted from it."""


def worker_environment() -> dict[str, str]:
    """Return the environment for a worker process, which sends the records that would be logged here."""
    return {**os.environ, _LEVEL: str(logging.getLogger(PACKAGE).getEffectiveLevel())}


def send_records(send: Callable[..., None]) -> None:
    """In a worker process: send every wanted record of hwnas as a message `log`."""
    logger = logging.getLogger(PACKAGE)
    logger.addHandler(_Sender(send))
    logger.setLevel(int(os.environ.get(_LEVEL, logging.WARNING)))


@dataclass(frozen=True, kw_only=True)
class WorkerLogRecord:
    """Fields of a log record that a worker process sends."""

    name: str
    levelno: int
    levelname: str
    msg: str
    created: float
    msecs: float
    process: int
    module: str
    funcName: str
    lineno: int


def log_record(values: object) -> None:
    """Log a record that a worker process sent, with its own time and process.

    Raises:
        InputError: The values are not those of a record.
    """
    record = from_mapping(WorkerLogRecord, values, where="log")
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(logging.makeLogRecord(vars(record)))


class _Sender(logging.Handler):
    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        traceback = f"\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else ""
        names = [field.name for field in fields(WorkerLogRecord)]
        values = {name: getattr(record, name, None) for name in names}
        self._send(log={**values, "msg": record.getMessage() + traceback})
