"""`hwnas report`: what a search found, as a page, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import InputError
from hwnas.report.data import RunData
from hwnas.report.figures import FOLDER, write_figures
from hwnas.report.front import write_tables
from hwnas.report.gather import gather
from hwnas.report.page import render
from hwnas.report.together import mismatches
from hwnas.report.verdict import balanced, banners, sentence, standing
from hwnas.runs import write_atomic

PAGE = "report.html"
"""The file of the page."""

MOST_RUNS = 6
"""Runs that one page tells apart by colour and shape."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Summary of one run."""

    run: Path
    finished: bool
    verdict: str
    warnings: tuple[str, ...]
    num_candidates: int
    num_front: int
    """Networks on the front; where it was measured, those that stood."""
    balanced: str | None
    """The id of the network that gives up least of every objective; None where no network stands."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Files and conclusions of a report."""

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    runs: tuple[RunSummary, ...]
    warnings: tuple[str, ...]
    """Why figures of several runs cannot be compared."""


def write_report(runs: Path | Sequence[Path], *, out: Path | None = None) -> Report:
    """Write report.html, the tables of the front and figures of one search run, or of several on one page.

    They stand in the folder of the first run, or in `out`.
    """
    paths = [runs] if isinstance(runs, Path) else list(runs)
    _require_runs(paths)
    found = [gather(path) for path in paths]
    folder = out or paths[0]
    _make(folder)
    page = folder / PAGE
    write_atomic(page, render(found))
    return Report(
        page=page,
        tables=write_tables(found[0], folder),
        figures=write_figures(found, folder / FOLDER),
        runs=tuple(_summary(data) for data in found),
        warnings=mismatches(found),
    )


def _require_runs(paths: Sequence[Path]) -> None:
    if not paths:
        raise InputError("a report needs the run of a search", hint="hwnas report runs/search-…")
    if len(paths) > MOST_RUNS:
        raise InputError(f"a page shows at most {MOST_RUNS} runs", got=len(paths))
    places = [path.resolve() for path in paths]
    if len(set(places)) < len(places):
        raise InputError("a run must not be named twice", got=", ".join(map(str, paths)))


def _make(folder: Path) -> None:
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written", got=error.strerror or str(error)) from error


def _summary(data: RunData) -> RunSummary:
    front = standing(data)
    choice = balanced(data, front)
    return RunSummary(
        run=data.path,
        finished=data.finished,
        verdict=sentence(data),
        warnings=tuple(banner.text for banner in banners(data) if banner.level == "warning"),
        num_candidates=len(data.candidates),
        num_front=len(front),
        balanced=None if choice is None else choice.arch_id,
    )
