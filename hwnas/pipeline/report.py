"""`hwnas report`: write the page, tables and figures of searches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.arguments import checked_arguments
from hwnas.errors import InputError
from hwnas.files import file_errors, path_within, write_atomic
from hwnas.report.data import RunData
from hwnas.report.figures import FOLDER, write_figures
from hwnas.report.front import write_tables
from hwnas.report.gather import gather
from hwnas.report.page import render
from hwnas.report.verdict import balanced, banners, mismatches, sentence, standing

PAGE = "report.html"
"""The file of the page."""

MAX_RUNS = 6
"""Runs that a page can distinguish by colour and shape."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Summary of one run."""

    run: Path
    finished: bool
    verdict: str
    warnings: tuple[str, ...]
    num_candidates: int
    num_front: int
    """Networks on the front; if it was measured, those that are still on it."""
    balanced: str | None
    """The id of the balanced network; None if no network is left on the front."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Files and conclusions of a report."""

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    runs: tuple[RunSummary, ...]
    warnings: tuple[str, ...]
    """Differences between the runs that make their values incomparable."""


@checked_arguments
def write_report(runs: Path | Sequence[Path], *, out: Path | None = None) -> Report:
    """Write the page, the tables of the front and the figures of one search run, or of several on one page.

    Args:
        runs: A run of `hwnas search`, or several to compare; the tables are those of the first.
        out: Folder to write to; by default that of the first run.

    Raises:
        InputError: A folder is not the run of a search, one of its files is invalid, or `out` cannot be written.
    """
    paths = [runs] if isinstance(runs, Path) else list(runs)
    _require_runs(paths)
    data = [gather(path) for path in paths]
    folder = out or paths[0]
    figures = path_within(folder, FOLDER)  # a run from elsewhere may have a link there
    with file_errors(folder, "written"):
        figures.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    write_atomic(page, render(data))
    return Report(
        page=page,
        tables=write_tables(data[0], folder),
        figures=write_figures(data, figures),
        runs=tuple(map(_summary, data)),
        warnings=mismatches(data),
    )


def _require_runs(paths: Sequence[Path]) -> None:
    if not paths:
        raise InputError("a report needs the run of a search", hint="hwnas report runs/search-…")
    if len(paths) > MAX_RUNS:
        raise InputError(f"a page shows at most {MAX_RUNS} runs", got=len(paths))
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a run must not be named twice", got=", ".join(map(str, paths)))


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
