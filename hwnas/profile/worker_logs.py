"""Log records of a worker process, sent to the process that started it and logged there."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

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


def log_record(values: Mapping[str, Any]) -> None:
    """Log a record that a worker process sent, with its own time and process."""
    logger = logging.getLogger(values["name"])
    if logger.isEnabledFor(values["levelno"]):
        logger.handle(logging.makeLogRecord(values))


class _Sender(logging.Handler):
    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        traceback = f"\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else ""
        names = ("name", "levelno", "levelname", "created", "msecs", "process", "module", "funcName", "lineno")
        self._send(log={"msg": record.getMessage() + traceback, **{name: getattr(record, name) for name in names}})
