"""Several searches in one figure: hypervolume over evaluations with a band for seeds, and fronts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.report.data import MetricInfo, RunData
from hwnas.report.figures import COLOURS, axes_of, axis_factor, axis_title, legend_above, rendered
from hwnas.report.gather import gather, recorded_bounds
from hwnas.report.verdict import standing
from hwnas.runs import Run
from hwnas.search.pareto import HypervolumeBounds, hypervolume_history, known_rows, on_front
from hwnas.search.spec import SearchSpec, read_spec
from hwnas.search.study_files import STUDY_FILE
from hwnas.space.deployed import count_evaluations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEEDS = "seeds"
"""The folder of a run with the studies of its further seeds."""

_COMPARED = ("space", "strategy", "settings", "objectives", "constraints", "deployments", "supernet")
"""Fields of a specification that tell groups apart, where they differ; seeds and budgets do not."""


@dataclass(frozen=True, kw_only=True)
class ComparedSearch:
    """One search of a comparison: of a run, or of one of its further seeds."""

    name: str
    spec: SearchSpec
    data: RunData
    bounds: HypervolumeBounds


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Hypervolume over evaluations: a step function, 0 before its first point."""

    evaluations: NDArray[np.intp]
    values: NDArray[np.float64]

    def at(self, evaluations: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the values after numbers of evaluations."""
        places = np.searchsorted(self.evaluations, evaluations, side="right")
        return np.concatenate([[0.0], self.values])[places]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Searches that differ in their seeds alone."""

    label: str
    searches: tuple[ComparedSearch, ...]
    curves: tuple[Curve, ...]
    """Those of the searches, in their order, within bounds that all groups share where their objectives agree."""

    def band(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return evaluations, and smallest, median and largest hypervolume, as far as all searches have come."""
        last = min(int(curve.evaluations[-1]) for curve in self.curves)
        grid = np.unique(np.concatenate([curve.evaluations for curve in self.curves]))
        grid = grid[grid <= last]
        values = np.stack([curve.at(grid) for curve in self.curves])
        return grid, np.stack([values.min(axis=0), np.median(values, axis=0), values.max(axis=0)])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Groups of searches."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    """Reasons why values are not comparable."""


def compare(runs: Sequence[Path]) -> Comparison:
    """Read searches and group those that differ in their seeds alone.

    Raises:
        InputError: A folder is not the run of a search, or a search has not completed a generation.
    """
    searches = [search for path in runs for search in _read(path)]
    shared = len({search.spec.objectives for search in searches}) == 1
    bounds = _union([search.bounds for search in searches]) if shared else None
    groups: dict[str, list[ComparedSearch]] = {}
    for search, label in zip(searches, _labels(searches), strict=True):
        groups.setdefault(label, []).append(search)
    return Comparison(
        groups=tuple(
            Group(
                label=label,
                searches=tuple(members),
                curves=tuple(_curve(search, bounds or search.bounds) for search in members),
            )
            for label, members in groups.items()
        ),
        notes=tuple(_notes(searches, shared=shared)),
    )


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write the figures of a comparison as PNG and SVG, and its curves as CSV; return their paths."""
    written = []
    drawings: dict[str, Any] = {
        "hypervolume": lambda axes: draw_bands(axes, comparison),
        "fronts": lambda axes: draw_fronts(axes, comparison),
    }
    for name, draw in drawings.items():
        for kind, content in rendered(draw).items():
            write_atomic(folder / f"{name}.{kind}", content)
            written.append(folder / f"{name}.{kind}")
    write_atomic(folder / "hypervolume.csv", "".join(_csv_lines(comparison)))
    return (*written, folder / "hypervolume.csv")


def draw_bands(axes: "Axes", comparison: Comparison) -> None:
    """Draw the median hypervolume of each group, with a band from the smallest to the largest of several seeds."""
    for number, group in enumerate(comparison.groups):
        colour = COLOURS[number % len(COLOURS)]
        grid, (low, middle, high) = group.band()
        count = len(group.curves)
        label = group.label if count == 1 else f"{group.label}: median of {count}, smallest to largest"
        axes.step(grid, middle, where="post", color=colour, label=label.replace("$", r"\$"))
        if count > 1:
            axes.fill_between(grid, low, high, step="post", color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("evaluations")
    axes.set_ylabel("hypervolume")
    axes.grid(color="0.92", linewidth=0.6)
    legend_above(axes)


def draw_fronts(axes: "Axes", comparison: Comparison) -> None:
    """Draw the fronts of all searches, those of a group in one colour, with the best of the group joined by a line."""
    first = comparison.groups[0].searches[0].data
    titles = [axis_title(metric) for metric in axes_of(first)]
    names = {tuple(metric.key for metric in axes_of(s.data)) for g in comparison.groups for s in g.searches}
    if len(names) > 1:  # the axes of several devices have only the quantity in common
        titles = [title.partition("\n")[0] for title in titles]
    for number, group in enumerate(comparison.groups):
        colour = COLOURS[number % len(COLOURS)]
        fronts = [_front(search.data, axes_of(first)) for search in group.searches]
        for index, front in enumerate(fronts):
            label = "_" if index else group.label.replace("$", r"\$")
            axes.plot(*front, "o", color=colour, markersize=3.5, alpha=0.7, linestyle="none", label=label)
        best = _best(np.concatenate(fronts, axis=1), group.searches[0].data)
        # A network between two others need not exist: what is reached is a staircase.
        steps = "steps-pre" if axes_of(group.searches[0].data)[1].maximised else "steps-post"
        axes.plot(*best, color=colour, linewidth=1, drawstyle=steps)
    axes.set_ylabel(titles[0])
    axes.set_xlabel(titles[1])
    axes.grid(color="0.92", linewidth=0.6)
    legend_above(axes)


def _read(path: Path) -> Iterator[ComparedSearch]:
    """Yield the search of a run, and those of its further seeds."""
    data = gather(path, evidence=False)
    spec = read_spec(Run.open(path)) if data.record is None else data.record.spec
    first = _searched(path.resolve().name, spec, data, path)
    yield first
    for folder in sorted((path / SEEDS).glob("*/"), key=lambda folder: folder.name.zfill(20)):
        if folder.name.isdigit() and (folder / STUDY_FILE).is_file():
            seeded = replace(spec, seed=int(folder.name))
            found = gather(path, evidence=False, seed_folder=folder)
            yield _searched(f"{first.name}, seed {folder.name}", seeded, found, folder)


def _searched(name: str, spec: SearchSpec, data: RunData, folder: Path) -> ComparedSearch:
    bounds = recorded_bounds(folder)
    if bounds is None or not len(data.candidates):
        hint = "compare it when its first generation is complete"
        raise InputError(f"{folder} must have candidates to compare", got="none yet", hint=hint)
    return ComparedSearch(name=name, spec=spec, data=data, bounds=bounds)


def _union(bounds: Sequence[HypervolumeBounds]) -> HypervolumeBounds:
    """Return the smallest box that holds all."""
    return HypervolumeBounds(
        ideal=tuple(np.min([item.ideal for item in bounds], axis=0).tolist()),
        reference=tuple(np.max([item.reference for item in bounds], axis=0).tolist()),
    )


def _curve(search: ComparedSearch, bounds: HypervolumeBounds) -> Curve:
    data, problem = search.data, search.spec.make_problem(search.data.space)
    scores = problem.scores(data.candidates.metrics)
    counts = count_evaluations(data.space, data.candidates.genomes, known_rows(scores.objectives))
    points = hypervolume_history(scores.objectives, data.candidates.generations, bounds, feasible=scores.feasible)
    return Curve(
        evaluations=np.array([counts[count - 1] for count, _ in points], dtype=np.intp),
        values=np.array([value for _, value in points]),
    )


def _labels(searches: Sequence[ComparedSearch]) -> list[str]:
    """Return what each search differs by from the others, without its seed."""
    values = [[_shown(name, getattr(search.spec, name)) for search in searches] for name in _COMPARED]
    different = [column for column in values if len(set(column)) > 1]
    if not different:
        return [searches[0].spec.strategy] * len(searches)
    return [", ".join(dict.fromkeys(filter(None, row))) for row in zip(*different, strict=True)]


def _shown(name: str, value: Any) -> str:
    if name == "supernet":
        return "" if value is None else f"{value.path.name} on {value.data_name}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if name == "objectives":
        return ", ".join(item for item in value if "@" in item)
    return value if isinstance(value, str) else ", ".join(value or ())


def _notes(searches: Sequence[ComparedSearch], *, shared: bool) -> Iterator[str]:
    if not shared:
        yield "objectives differ: each hypervolume is in bounds of its own, and only shapes can be compared"
    budgets = {search.spec.budget for search in searches}
    if len(budgets) > 1:
        yield "budgets differ: a band ends where the shortest search of its group ends"


def _front(data: RunData, drawn: tuple[MetricInfo, MetricInfo]) -> NDArray[np.float64]:
    """Return the networks that stand, of shape (2, networks): horizontal and vertical values in the units drawn."""
    y, x = axes_of(data)
    rows = [[member.value(metric.key) for member in standing(data)] for metric in (x, y)]
    factors = np.array([[axis_factor(metric)] for metric in reversed(drawn)])
    points: NDArray[np.float64] = np.array(rows, dtype=np.float64).reshape(2, -1) * factors
    return points


def _best(points: NDArray[np.float64], data: RunData) -> NDArray[np.float64]:
    """Return those of the points that no other beats, by their horizontal value."""
    y, x = axes_of(data)
    signs = np.array([-1.0 if metric.maximised else 1.0 for metric in (x, y)])
    best: NDArray[np.float64] = points[:, on_front(points.T * signs)]
    ordered: NDArray[np.float64] = best[:, np.argsort(best[0], kind="stable")]
    return ordered


def _csv_lines(comparison: Comparison) -> Iterator[str]:
    yield "group,search,seed,evaluations,hypervolume\n"
    for group in comparison.groups:
        label = group.label.replace('"', '""')
        for search, curve in zip(group.searches, group.curves, strict=True):
            name = search.name.replace('"', '""')
            for count, value in zip(curve.evaluations.tolist(), curve.values.tolist(), strict=True):
                yield f'"{label}","{name}",{search.spec.seed},{count},{value:.6g}\n'
