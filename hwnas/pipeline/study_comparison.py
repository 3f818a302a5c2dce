"""`hwnas study compare`: several searches in one figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.arguments import checked_arguments
from hwnas.errors import InputError
from hwnas.files import file_errors
from hwnas.report.comparison import Group, compare, write_comparison

MAX_GROUPS = 6
"""Groups that a figure can distinguish by colour."""


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """Hypervolume of searches that differ in their seeds alone, after as many evaluations as all of them have."""

    label: str
    num_searches: int
    evaluations: int
    median: float
    smallest: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class SearchComparison:
    """Figures of several searches."""

    groups: tuple[GroupSummary, ...]
    notes: tuple[str, ...]
    """Reasons why values are not comparable."""
    files: tuple[Path, ...]


@checked_arguments
def compare_searches(runs: Sequence[Path], *, out: Path) -> SearchComparison:
    """Draw several searches into one figure each: hypervolume over evaluations with bands, and their fronts.

    Searches that differ in their seeds alone are a group: its median is drawn with a band from the smallest to the
    largest value. The further seeds of a run count as well. Where objectives agree, hypervolumes are computed again
    within the bounds of all.

    Args:
        runs: Runs of `hwnas search`, finished or not.
        out: Folder for the figures (PNG and SVG) and a CSV file of the curves.

    Raises:
        InputError: A folder is not the run of a search, there are too many groups, or `out` cannot be written.
    """
    if not runs:
        raise InputError("a comparison needs the run of a search", hint="hwnas study compare runs/search-…")
    if len({path.resolve() for path in runs}) < len(runs):
        raise InputError("a run must not be named twice", got=", ".join(map(str, runs)))
    comparison = compare(runs)
    if len(comparison.groups) > MAX_GROUPS:
        raise InputError(f"a figure shows at most {MAX_GROUPS} groups", got=len(comparison.groups))
    with file_errors(out, "written"):
        out.mkdir(parents=True, exist_ok=True)
    return SearchComparison(
        groups=tuple(map(_summary, comparison.groups)),
        notes=comparison.notes,
        files=write_comparison(comparison, out),
    )


def _summary(group: Group) -> GroupSummary:
    grid, (low, middle, high) = group.band()
    last = -1
    return GroupSummary(
        label=group.label,
        num_searches=len(group.curves),
        evaluations=int(grid[last]),
        median=float(middle[last]),
        smallest=float(low[last]),
        largest=float(high[last]),
    )
