"""The run folder of a search: made aside and then renamed, and written by one process at a time."""

import os
import re
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path

from hwnas.errors import InputError
from hwnas.files import WriterLock, cannot, file_errors, printable, remove_temporaries
from hwnas.pipeline.search.context import PREDICTORS, SearchContext
from hwnas.pipeline.search.verify import PROFILES
from hwnas.runs import LOCK, MANIFEST, Run, command_line
from hwnas.search.record import NETWORKS, RECORD_FILE, read_record
from hwnas.search.spec import read_spec

_ASIDE = ".run.new"
"""Name of the temporary folder inside an existing folder that becomes a run."""

_STALE_S = 60.0
"""Age of a folder that was made aside after which its maker has locked it, or was killed."""


def create_run(folder: Path, context: SearchContext, *, beside: tuple[str, ...] = ()) -> WriterLock:
    """Make the run folder of a search, with copies of its predictors; it is never seen in part.

    Args:
        folder: A new or an empty folder.
        context: The inputs of the search.
        beside: Names of files and folders that it may hold already.

    Returns:
        The right to be the only writer of the run.

    Raises:
        InputError: The folder holds something, also if another process has made it just now, or it cannot be written.
    """
    with file_errors(folder, "written", also=(ValueError,)):  # ValueError: a NUL character
        require_new(folder, beside=beside)
        # A folder that exists is filled in place: it may be a link, a mount, or in a folder that cannot be written.
        return _fill(folder, context, beside) if folder.is_dir() else _make(folder, context)


def lock_run(run: Path) -> WriterLock:
    """Become the only writer of a run, and remove what a killed writer left in it.

    Raises:
        InputError: Another process writes to the run (it is named), or the run cannot be written.
    """
    lock = WriterLock(run / LOCK, activity="search")
    for folder in (run, *(run / NETWORKS).glob("*/")):
        if not folder.is_symlink():
            remove_temporaries(folder)
    return lock


def extend_run(run: Path, evaluations: int) -> None:
    """Give a search more evaluations, which it goes on with when it is resumed. Its run must be locked.

    The front is measured anew, as other networks are on it; profiles that were measured stay.

    Raises:
        InputError: The search has a limit of minutes, or as many evaluations already.
    """
    found = Run.open(run)
    spec, ended = read_spec(found), (run / RECORD_FILE).is_file()
    # The manifest is written first, so that the same command again completes what a killed one began.
    is_new = evaluations != spec.budget.evaluations or not spec.budget.earlier
    if is_new or (ended and read_record(run).spec.budget == spec.budget):
        found.with_config(replace(spec, budget=spec.budget.extended(evaluations)))
    for plan in (run / PROFILES).glob("plan-*.jsonl"):
        plan.unlink()
    (run / RECORD_FILE).unlink(missing_ok=True)


def _make(folder: Path, context: SearchContext) -> WriterLock:
    """Make the run next to its place and rename it."""
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - `..` must go, and links must stay
    _remove_stale(target.parent)
    aside, lock = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new"), None
    try:
        _write(aside, context)
        lock = WriterLock(aside / LOCK, activity="search")  # it stays locked when the folder is renamed
        _rename(aside, folder)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return lock


def _fill(folder: Path, context: SearchContext, beside: tuple[str, ...]) -> WriterLock:
    """Make the run in an empty folder; the manifest, which makes it a run, comes last."""
    lock, aside = WriterLock(folder / LOCK, activity="search"), folder / _ASIDE
    try:
        require_new(folder, locked=True, beside=beside)
        _take_back(folder)
        shutil.rmtree(aside, ignore_errors=True)
        _write(aside, context)
        for item in sorted(aside.iterdir(), key=lambda item: item.name == MANIFEST):
            item.rename(folder / item.name)
    except BaseException:
        _take_back(folder)
        lock.close()
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return lock


def _is_half_filled(folder: Path) -> bool:
    """Return True if a folder has the predictors of a run whose manifest is still aside, as after a kill."""
    aside = folder / _ASIDE
    return (aside / MANIFEST).is_file() and not (aside / PREDICTORS).exists() and (folder / PREDICTORS).is_dir()


def _take_back(folder: Path) -> None:
    if _is_half_filled(folder):
        (folder / PREDICTORS).rename(folder / _ASIDE / PREDICTORS)


def _write(folder: Path, context: SearchContext) -> None:
    Run.create(folder, command=command_line(), config=context.spec, seeds={"seed": context.spec.seed})
    for item, source in zip(context.spec.predictors, context.predictor_folders, strict=True):
        # Several metrics may share a predictor that was fitted to any batch.
        shutil.copytree(source, folder / item.path, dirs_exist_ok=True)


def require_new(folder: Path, *, locked: bool = False, beside: tuple[str, ...] = ()) -> None:
    """Raise an InputError unless a folder for the run of a search is new or empty.

    Args:
        folder: The folder.
        locked: This process holds its lock.
        beside: Names of files and folders that it may hold already.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{printable(folder)} must be a new or an empty folder", got="a file", hint="another --out")
    names = {item.name for item in folder.iterdir()} if folder.exists() else set()
    if not locked and LOCK in names:
        WriterLock(folder / LOCK, activity="search").close()  # an error that names the other search
    if _is_half_filled(folder):
        names.remove(PREDICTORS)
    if names - {LOCK, _ASIDE, *beside}:
        hint = f"hwnas search --resume {printable(folder)}, or another --out"
        message = f"{printable(folder)} must be a new or an empty folder"
        raise InputError(message, got="a folder with files", hint=hint)


def _rename(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError as error:
        require_new(folder)  # another search may have made it since
        raise cannot("made a run folder", folder, error) from error


def _remove_stale(parent: Path) -> None:
    """Remove folders that searches made aside before they were killed."""
    for aside in parent.glob(".*.new"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.new", aside.name) is None or aside.is_symlink() or not aside.is_dir():
            continue
        names = [item.name for item in aside.iterdir()]
        is_run = MANIFEST in names or all(name.startswith(f".{MANIFEST}.") for name in names)
        if is_run and time.time() - aside.stat().st_mtime > _STALE_S:
            try:
                with WriterLock(aside / LOCK, activity="search"):
                    shutil.rmtree(aside, ignore_errors=True)
            except InputError:  # it is being made, or belongs to another user
                continue
