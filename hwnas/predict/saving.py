"""Writing of predictors: all files of one appear at once, in place of an older one."""

import ctypes
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from hwnas.errors import InputError
from hwnas.files import brief_lock, file_errors, printable, sync_folder
from hwnas.predict.card import CARD, card_from_json, card_json, sealed
from hwnas.predict.card_page import PARITY, card_page, parity_plot
from hwnas.predict.predictor import MODEL, Predictor
from hwnas.predict.stored import StoredTable

PAGE = "card.md"
"""File name of the card as Markdown."""

_LOCK_TIMEOUT_S = 30.0
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def save_predictor(predictor: Predictor, folder: Path) -> Predictor:
    """Write a predictor to its folder, replacing an existing one, and return it with its sealed card.

    Raises:
        InputError: The folder holds something other than a predictor, or cannot be written, or a value of the predictor
            is not one that can be read again. An existing predictor is then kept.
    """
    model_text = json.dumps(predictor.model_json(), separators=(",", ":"), allow_nan=False) + "\n"
    card = sealed(predictor.card, model_text=model_text)
    card_text = json.dumps(card_json(card), indent=1, allow_nan=False) + "\n"
    # A profile from elsewhere may bring values that a card must not have: what is written can be read again.
    card_from_json(json.loads(card_text), source=printable(folder / CARD))
    Predictor.from_json(card, StoredTable(json.loads(model_text), where=printable(folder / MODEL)))
    with file_errors(folder, "written"):
        # Drawing is a step that may fail: matplotlib needs a folder that it can write to.
        texts = {MODEL: model_text, CARD: card_text, PAGE: card_page(card), PARITY: parity_plot(card)}
        if folder.exists() and any(folder.iterdir()) and not (folder / CARD).is_file():
            message = f"{printable(folder)} holds something other than a predictor"
            raise InputError(message, hint="choose another folder with --out")
        # Another fit takes a moment, and is waited for.
        with _made_folders(folder.parent), brief_lock(folder.parent, timeout_s=_LOCK_TIMEOUT_S) as is_locked:
            if not is_locked:
                message = f"{printable(folder.parent)} is being written by another process"
                raise InputError(message, hint="wait until it has ended, then fit again")
            _remove_leftovers(folder)
            _replace(folder, texts)
    return replace(predictor, card=card)


def _replace(folder: Path, texts: Mapping[str, str]) -> None:
    token = secrets.token_hex(6)
    new, old = folder.with_name(f".{folder.name}.{token}.new"), folder.with_name(f".{folder.name}.{token}.old")
    try:
        new.mkdir()
        for name, text in texts.items():
            with (new / name).open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(new)
        if not folder.exists():
            new.rename(folder)
        elif not _exchange(new, folder):
            folder.rename(old)
            new.rename(folder)
        sync_folder(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; return False where the system cannot, as outside of Linux."""
    # Between the two renames that are needed otherwise, a kill would leave no predictor in its place.
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number))


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed calls left next to a folder, or put a predictor back that one had moved away.

    The caller holds the lock of the parent folder, so no other process is writing them.
    """
    ours = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{12}}\.(new|old)")
    for leftover in sorted(folder.parent.iterdir()):
        if ours.fullmatch(leftover.name) and leftover.is_dir() and not leftover.is_symlink():
            if leftover.name.endswith(".old") and not folder.exists():
                leftover.rename(folder)
            else:
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _made_folders(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; remove those again that an error leaves empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
