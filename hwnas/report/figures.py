"""Figures of the front, of predicted against measured values, and of the hypervolume, as PNG and SVG."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.files import write_atomic
from hwnas.report.data import COSTS, Member, MetricInfo, RunData
from hwnas.search.record import ReferenceNetwork

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
"""Folder of the figures in a run."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""One for each run: the colour-blind safe palette of Okabe and Ito."""

_MARKERS = ("o", "s", "D", "^", "p", "v")
_GREY = "0.55"
_WIDTH_IN, _HEIGHT_IN = 4.8, 3.4
_DPI = 300
_ROW_IN = 0.17
_HIDDEN = "_"
"""A label that the legend leaves out."""
_NEAR = 0.35
"""Reference networks are shown up to this share of the axis away from the points."""
_LEGEND_LETTERS = 60
_NAME_LETTERS = 44

_TITLES = {
    "accuracy": "accuracy (%)",
    "mAP": "mAP (%)",
    "mIoU": "mIoU (%)",
    "knn_accuracy": "accuracy of nearest images (%)",
    "divergence": "divergence from the model (nats)",
    "macs": "MACs",
    "params": "parameters",
    "latency_ms": "latency (ms)",
    "throughput": "throughput (images/s)",
    "memory_mb": "memory (MB)",
    "energy_j": "energy (J)",
}
_FACTORS = {"accuracy": 100.0, "knn_accuracy": 100.0, "mAP": 100.0, "mIoU": 100.0}
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
"""Units of counts, the first that the largest value reaches."""

Draw = Callable[["Axes"], None]


def write_figures(runs: Sequence[RunData], folder: Path) -> tuple[Path, ...]:
    """Write all figures that the runs have data for, and return their paths."""
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in _figures(runs):
        for kind, content in rendered(draw).items():
            write_atomic(folder / f"{name}.{kind}", content)
            written.append(folder / f"{name}.{kind}")
    return tuple(written)


def _figures(runs: Sequence[RunData]) -> Iterator[tuple[str, Draw]]:
    if any(data.front for data in runs):
        yield "front", lambda axes: draw_front(axes, runs)
    if any(data.history for data in runs):
        yield "hypervolume", lambda axes: draw_hypervolume(axes, runs)
    first = runs[0]
    for number, key in enumerate(key for key in _predicted_keys(first) if _pairs(first, key)):
        # The variable of a loop is bound when the figure is drawn: by then it is another one.
        yield f"parity{number + 1 if number else ''}", lambda axes, key=key: draw_parity(axes, first, key)  # type: ignore[misc]


def rendered(draw: Draw) -> dict[str, bytes]:
    """Render a drawing as PNG and SVG (with text as text); equal values give equal bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with mpl.rc_context({**style, "svg.hashsalt": "hwnas", "svg.fonttype": "none"}):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        draw(figure.add_subplot())
        return {"png": _saved(figure, "png", {}), "svg": _saved(figure, "svg", {"Date": None})}


def _saved(figure: "Figure", kind: str, metadata: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=_DPI, metadata=dict(metadata))
    return file.getvalue()


def draw_front(axes: "Axes", runs: Sequence[RunData]) -> None:
    """Draw the first objective over the first device metric: predicted values hollow, measured ones filled."""
    y, x = axes_of(runs[0])
    for number, data in enumerate(runs):
        _draw_run(axes, data, x, y, colour=COLOURS[number % 6], marker=_MARKERS[number % 6], alone=len(runs) == 1)
    low, high = axes.get_xlim()
    near = (low - _NEAR * (high - low), high + _NEAR * (high - low))
    for name, colour, reference in _references(runs):
        across = reference.value(x.key)
        if across is not None and near[0] <= across * axis_factor(x) <= near[1]:
            _draw_reference(axes, name, across * axis_factor(x), reference.value(y.key), y, colour=colour)
    axes.set_xlabel(axis_title(x))
    axes.set_ylabel(axis_title(y))
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    legend_above(axes)


def axes_of(data: RunData) -> tuple[MetricInfo, MetricInfo]:
    """Return the metrics of the vertical and the horizontal axis of the front."""
    first, *others = data.objectives
    if not others:
        others = [metric for metric in data.metrics if metric.key != first.key]
    return first, next((metric for metric in others if metric.where), others[0] if others else first)


def _draw_run(
    axes: "Axes", data: RunData, x: MetricInfo, y: MetricInfo, *, colour: str, marker: str, alone: bool
) -> None:
    if not {x.key, y.key} <= {metric.key for metric in data.metrics}:
        axes.plot([], [], marker, color=colour, linestyle="none", label=f"{_cut(data.name)}: other metrics or devices")
        return
    if alone:
        _draw_dominated(axes, data, x, y)
    if alone and data.deployments:
        _draw_deployments(axes, data, x, y)
        return
    predicted = any(metric.predicted for metric in (x, y))
    shown = [member for member in data.front if member.measured] if predicted else list(data.front)
    labels = ["front, predicted", "front, measured" if predicted else "front"]
    if not alone:  # one line of the legend for each run
        labels = [_HIDDEN, _cut(data.name)] if shown else [_cut(data.name), _HIDDEN]
    if predicted:
        _joined(axes, data, x, y)
        points = [_point(member, x, y, measured=False) for member in data.front]
        axes.plot(*_columns(points), marker, mfc="none", color=colour, markersize=5, label=labels[0], linestyle="none")
    if shown:
        points = [_point(member, x, y, measured=predicted) for member in shown]
        errors = [_errors(data, metric) if predicted else None for metric in (x, y)]
        style: dict[str, Any] = {
            "fmt": marker,
            "color": colour,
            "markersize": 4.5,
            "elinewidth": 0.8,
            "label": labels[1],
        }
        axes.errorbar(*_columns(points), xerr=errors[0], yerr=errors[1], **style)


def _draw_deployments(axes: "Axes", data: RunData, x: MetricInfo, y: MetricInfo) -> None:
    """Draw the front with a shape for each deployment, and a line through the same network in several of them."""
    best = {member.arch_id: _point(member, x, y, measured=True) for member in data.front}
    for network_id in dict.fromkeys(member.network_id for member in data.front):
        points = sorted(best[member.arch_id] for member in data.front if member.network_id == network_id)
        if len(points) > 1:
            axes.plot(*_columns(points), color=_GREY, linewidth=0.7, linestyle=":", zorder=1.5)
    predicted = any(metric.predicted for metric in (x, y))
    for index, deployment in enumerate(data.deployments):
        own = [member for member in data.front if member.deployment == deployment]
        for filled in (False, True):
            members = [member for member in own if (member.measured or not predicted) == filled]
            axes.plot(
                *_columns([best[member.arch_id] for member in members]),
                _MARKERS[index % len(_MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                mfc=None if filled else "none",
                markersize=5,
                linestyle="none",
                label=f"{deployment}{'' if filled or not predicted else ', predicted'}" if members else _HIDDEN,
            )


def _draw_dominated(axes: "Axes", data: RunData, x: MetricInfo, y: MetricInfo) -> None:
    candidates = data.candidates
    dominated = candidates.feasible & ~candidates.on_front
    columns = [candidates.metrics[metric.key].mean[dominated] * axis_factor(metric) for metric in (x, y)]
    axes.plot(*columns, ".", color="0.8", markersize=2, label="dominated", zorder=1, rasterized=True)


def _joined(axes: "Axes", data: RunData, x: MetricInfo, y: MetricInfo) -> None:
    for member in data.front:
        if member.measured:
            ends = [_point(member, x, y, measured=False), _point(member, x, y, measured=True)]
            axes.plot(*_columns(ends), color=_GREY, linewidth=0.7, zorder=1.5)


def _point(member: Member, x: MetricInfo, y: MetricInfo, *, measured: bool) -> tuple[float, float]:
    values = [member.value(metric.key) if measured else member.metrics[metric.key].predicted for metric in (x, y)]
    across, up = (np.nan if value is None else value for value in values)
    return across * axis_factor(x), up * axis_factor(y)


def _errors(data: RunData, metric: MetricInfo) -> Any:
    """Return the distances to the ends of the measured intervals, of shape (2, networks), or None without intervals."""
    checks = [member.metrics[metric.key] for member in data.front if member.measured]
    if all(check.measured_lower is None for check in checks):
        return None
    rows = [
        (0.0, 0.0)
        if check.measured is None or check.measured_lower is None or check.measured_upper is None
        else (max(0.0, check.measured - check.measured_lower), max(0.0, check.measured_upper - check.measured))
        for check in checks
    ]
    return np.array(rows).T * axis_factor(metric)


def _references(runs: Sequence[RunData]) -> Iterator[tuple[str, str, ReferenceNetwork]]:
    """Yield label, colour and values of the reference networks of all runs, once if runs agree on their values."""
    networks: list[tuple[int, ReferenceNetwork]] = []
    for number, data in enumerate(runs):
        known = [network for _, network in networks]
        networks += [(number, reference) for reference in data.references if reference not in known]
    for number, reference in networks:
        if sum(reference.name == other.name for _, other in networks) > 1:
            yield f"{reference.label} ({_cut(runs[number].name)})", COLOURS[number % 6], reference
        else:
            yield reference.label, "black", reference


def _draw_reference(
    axes: "Axes", name: str, across: float, up: float | None, y: MetricInfo, *, colour: str = "black"
) -> None:
    """Draw a reference network as a star, or as a vertical line if only its horizontal value is known."""
    if up is not None:
        point = (across, up * axis_factor(y))
        axes.plot([point[0]], [point[1]], "*", color=colour, markersize=9)
        axes.annotate(_without_maths(name), point, (4, 4), textcoords="offset points")
        return
    axes.axvline(across, color=_GREY, linewidth=0.8, linestyle="--")
    below: dict[str, Any] = {
        "xycoords": axes.get_xaxis_transform(),
        "textcoords": "offset points",
        "rotation": 90,
        "color": _GREY,
    }
    axes.annotate(_without_maths(name), (across, 0.02), (2, 0), **below)


def draw_hypervolume(axes: "Axes", runs: Sequence[RunData]) -> None:
    """Draw the hypervolume over the candidates, with random search for comparison."""
    for number, data in enumerate(runs):
        name, colour = ("this search" if len(runs) == 1 else _cut(data.name)), COLOURS[number % 6]
        points = [(item.candidates, item.hypervolume) for item in data.history]
        axes.step(*_columns(points), where="post", color=colour, label=name)
        random = None if data.record is None else data.record.random_history
        if random:
            rows = [(count, value) for count, _, value in random]
            label = _HIDDEN if number else "random search"
            axes.step(*_columns(rows), where="post", color=colour, linestyle="--", alpha=0.7, label=label)
    axes.set_xlabel("candidates")
    axes.set_ylabel("hypervolume")
    axes.grid(color="0.92", linewidth=0.6)
    legend_above(axes)


def draw_parity(axes: "Axes", data: RunData, key: str) -> None:
    """Draw predicted against measured values of held-out networks and of the measured front.

    Args:
        axes: Where to draw.
        data: The run.
        key: The metric of a predictor.
    """
    column, deployment = data.predicted_by(key)
    metric = data.metric(column)
    for name, points in _pairs(data, key).items():
        held = name == "held out"
        axes.plot(
            *_columns(points),
            "o" if held else "D",
            mfc="none" if held else COLOURS[0],
            color=_GREY if held else COLOURS[0],
            markersize=4,
            linestyle="none",
            label=name,
        )
    values = np.array([point for points in _pairs(data, key).values() for point in points])
    ends = [values.min(), values.max()]
    axes.plot(ends, ends, color=_GREY, linewidth=0.8, zorder=1)
    _plain_logarithms(axes)
    axes.set_xlabel(f"measured {axis_title(metric)}")
    in_deployment = "" if deployment is None else f", {deployment}"
    axes.set_ylabel(f"predicted {_TITLES[metric.name]}{in_deployment}")
    legend_above(axes)


def _plain_logarithms(axes: "Axes") -> None:
    """Make both axes logarithmic, with labels that are not powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if high / low > 12 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0))
        )
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.set_minor_formatter(NullFormatter())


def legend_above(axes: "Axes") -> None:
    """Place the legend above the axes, where it covers no point; a long one makes the figure higher."""
    _, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    columns = 3 if sum(map(len, labels)) <= _LEGEND_LETTERS else 1
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(_WIDTH_IN, _HEIGHT_IN + _ROW_IN * (len(labels) // columns - 1))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.2)


def _predicted_keys(data: RunData) -> list[str]:
    """Return the metrics of all predictors, in the order of the metrics of the run."""
    if not data.deployments:
        return [metric.key for metric in data.metrics]
    columns = [metric.key for metric in data.metrics]
    return sorted(data.cards, key=lambda key: columns.index(data.predicted_by(key)[0]))


def _pairs(data: RunData, key: str) -> dict[str, list[tuple[float, float]]]:
    """Return (measured, predicted) of held-out networks, and of the front if it was measured."""
    card, (column, deployment) = data.cards.get(key), data.predicted_by(key)
    held = [] if card is None else [(row.measured, row.predicted) for row in card.held_out]
    checks = [member.metrics[column] for member in data.front if member.deployment == deployment]
    # The axes are logarithmic.
    front = [
        (check.measured, check.predicted)
        for check in checks
        if check.measured is not None and check.predicted is not None and min(check.measured, check.predicted) > 0
    ]
    return {name: points for name, points in (("held out", held), ("front, measured", front)) if points}


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]


def axis_factor(metric: MetricInfo) -> float:
    """Return what values of a metric are multiplied by on an axis."""
    return 1 / _unit(metric)[0] if metric.name in COSTS else _FACTORS.get(metric.name, 1.0)


def axis_title(metric: MetricInfo) -> str:
    """Return the name of a metric with its unit, and its deployment on a second line."""
    unit = _unit(metric)[1] if metric.name in COSTS else ""
    where = f"\n{_without_maths(metric.where)}" if metric.where else ""
    return f"{_TITLES[metric.name]}{unit and f' ({unit})'}{where}"


def _unit(metric: MetricInfo) -> tuple[float, str]:
    return next(((size, prefix) for size, prefix in _PREFIXES if metric.largest >= size), (1.0, ""))


def _cut(name: str) -> str:
    """Shorten the name of a run for a legend."""
    return _without_maths(name if len(name) <= _NAME_LETTERS else f"…{name[1 - _NAME_LETTERS :]}")


def _without_maths(text: str) -> str:
    """Escape the dollar signs that matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
