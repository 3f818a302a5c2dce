"""The result of a search as Python objects: networks with their metrics, the front, and ways to look at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.arguments import checked_arguments, conform
from hwnas.errors import InputError, unknown
from hwnas.frames import Frame, html_table, to_frame
from hwnas.metrics import Quantity, parse_metric
from hwnas.runs import MANIFEST
from hwnas.search.choice import Pick
from hwnas.search.objective import Constraint, Objective, parse_constraint
from hwnas.search.record import read_record
from hwnas.search.study import SEARCHED, Study
from hwnas.search.study_files import STUDY_FILE
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace, Candidate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class FoundNetwork:
    """One network of a search with its metrics."""

    candidate: Candidate
    metrics: Mapping[str, float]
    """By the name of the metric; NaN where it was not evaluated. Measured values replace predicted ones."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lower and upper end, of metrics that are predicted."""
    on_front: bool
    """True if it is on the measured front, or on the searched one if nothing was measured."""
    feasible: bool

    @property
    def arch_id(self) -> str:
        """The id of the sub-network in its space."""
        return self.candidate.arch_id

    @property
    def id(self) -> str:
        """An id that is unique in the search: the arch id, then the deployment if the search chose among several."""
        return self.candidate.id


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Everything that a search evaluated, and its Pareto front."""

    space: AnySpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    networks: tuple[FoundNetwork, ...]
    """All candidates, in the order of evaluation."""
    hypervolume: float | None
    """Normalised hypervolume of the searched front; None if nothing is feasible."""
    evaluations: int
    stop: str
    """Why the search ended: 'evaluations', 'minutes', 'stalled' or 'exhausted'."""
    own_metrics: Mapping[str, Quantity] = field(default_factory=dict, repr=False)
    """Metrics of the caller's own, by name."""

    @property
    def front(self) -> tuple[FoundNetwork, ...]:
        """The networks on the Pareto front, the best of the first objective first."""
        first = self.objectives[0]
        sign = -1.0 if first.metric.maximised else 1.0
        members = [network for network in self.networks if network.on_front]
        return tuple(sorted(members, key=lambda network: sign * network.metrics[str(first)]))

    def best(self, **conditions: str | float) -> FoundNetwork:
        """Return the network of the front with the best first objective among those that meet all conditions.

        Args:
            conditions: A bound for each metric, such as `throughput=">=1000"` or `latency_ms="<=8ms"`. A plain number
                is an upper bound for metrics to be minimised and a lower bound for metrics to be maximised. Of a
                metric of several devices, the first one is meant.

        Raises:
            InputError: A metric was not part of the search, a bound cannot be read, or no network meets them all.
        """
        names = [self._key(name) for name in conditions]
        bounds = [self._bound(name, bound) for name, bound in zip(names, conditions.values(), strict=True)]
        for network in self.front:
            if all(_holds(bound, network.metrics[name]) for name, bound in zip(names, bounds, strict=True)):
                return network
        got = ", ".join(map(str, bounds)) or "an empty front"
        raise InputError("no network on the front meets the conditions", got=got)

    def pick(self, rule: str = "balanced") -> FoundNetwork:
        """Return the network of the front that a rule chooses.

        Args:
            rule: `balanced`, with few errors for its speed; `accuracy`; `fast`; or limits such as
                `throughput>=9000,macs<=1G`, of those within them the best of the first objective.

        Raises:
            InputError: The rule is not known, the front is empty, or no network on it is within the limits.
        """
        chosen = Pick.parse(rule, own=self.own_metrics)
        objectives = [objective.metric for objective in self.objectives]
        own = {str(metric): metric for metric in (*objectives, *(item.metric for item in self.constraints))}
        names = {name: own[name] if name in own else parse_metric(name) for name in self.metric_names}
        columns = {
            metric: np.array([network.metrics[name] for network in self.front]) for name, metric in names.items()
        }
        row = chosen.choose(objectives, columns) if self.front else None
        if row is None:
            best, looser = chosen.looser(columns) if self.front and chosen.limits else ("", None)
            got = f"{len(self.front)} networks on the front" + (f", {best}" if best else "")
            hint = None if looser is None else f"--pick '{looser}'"
            correction = None if looser is None else (rule, str(looser))
            raise InputError(f"no network on the front meets {chosen}", got=got, hint=hint, correction=correction)
        return self.front[row]

    def to_frame(self, *, front_only: bool = True) -> Frame:
        """Return the networks as a data frame: ids, metrics, interval ends, and the arch as a mapping.

        Args:
            front_only: Leave out all networks that are not on the front.
        """
        return to_frame(self._columns(self.front if front_only else self.networks))

    def _columns(self, networks: Sequence[FoundNetwork]) -> dict[str, list[object]]:
        columns: dict[str, list[object]] = {"arch_id": [network.id for network in networks]}
        columns["network_id"] = [network.candidate.network_id for network in networks]
        if isinstance(self.space, DeployedSpace):
            columns["deployment"] = [str(network.candidate.deployment) for network in networks]
        for name in self.metric_names:
            columns[name] = [network.metrics[name] for network in networks]
            if any(name in network.intervals for network in self.networks):
                ends = [network.intervals.get(name, (np.nan, np.nan)) for network in networks]
                columns[f"{name}_lower"] = [low for low, _ in ends]
                columns[f"{name}_upper"] = [high for _, high in ends]
        columns["feasible"] = [network.feasible for network in networks]
        columns["on_front"] = [network.on_front for network in networks]
        columns["arch"] = [network.candidate.arch.to_mapping() for network in networks]
        return columns

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of the networks: objectives first, then those of constraints and costs."""
        return tuple(self.networks[0].metrics) if self.networks else tuple(map(str, self.objectives))

    def plot(self, *, x: str | None = None, y: str | None = None, axes: "Axes | None" = None) -> "Figure":
        """Plot two metrics of all candidates, with the front highlighted.

        Args:
            x: The metric on the horizontal axis; the second objective by default.
            y: The metric on the vertical axis; the first objective by default.
            axes: Where to draw; a new figure by default.

        Returns:
            The figure, which a notebook displays.
        """
        from matplotlib.figure import Figure

        across = self._key(x) if x is not None else str(self.objectives[min(1, len(self.objectives) - 1)])
        up = self._key(y) if y is not None else str(self.objectives[0])
        if axes is None:
            axes = Figure(figsize=(5.5, 4), layout="constrained").add_subplot()
        others = [network for network in self.networks if not network.on_front]
        dominated = [network for network in others if network.feasible]
        infeasible = [network for network in others if not network.feasible]
        for members, marker, colour, label in (
            (infeasible, "x", "0.85", "infeasible"),
            (dominated, ".", "0.75", "dominated"),
            (self.front, "o", "#0072B2", "front"),
        ):
            if members:
                xs = [network.metrics[across] for network in members]
                ys = [network.metrics[up] for network in members]
                axes.plot(xs, ys, marker=marker, color=colour, label=label, linestyle="none")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.legend(frameon=False)
        figure = axes.get_figure(root=True)
        assert figure is not None
        return figure

    def __repr__(self) -> str:
        names = ", ".join(map(str, self.objectives))
        return (
            f"SearchResult({self.space.name}: {len(self.front)} on the front of {len(self.networks)} candidates, "
            f"{self.evaluations} evaluations, objectives {names})"
        )

    def _repr_html_(self) -> str:
        shown, columns = ("arch_id", "deployment", *self.metric_names), self._columns(self.front)
        return html_table({name: columns[name] for name in shown if name in columns}, title=repr(self))

    def _key(self, name: str) -> str:
        """Return the full name of a metric that may be given without its device."""
        for known in self.metric_names:
            if name == known or known.startswith(f"{name}@"):
                return known
        raise unknown("metric of the search", name, self.metric_names)

    def _bound(self, name: str, bound: str | float) -> Constraint:
        short = name.partition("@")[0]
        if not isinstance(bound, str):
            bound = conform(float, bound, where=name)
            maximised = next((item.metric.maximised for item in self.objectives if str(item) == name), False)
            bound = f"{'>=' if maximised else '<='}{bound!r}"
        return parse_constraint(f"{short}{bound}", own=self.own_metrics)


@checked_arguments
def load_search(run: str | Path) -> SearchResult:
    """Load the result of a finished search from its run.

    Args:
        run: The run folder of `search_networks` or `hwnas search`.

    Returns:
        All candidates with their metrics, and the front: that of measured values if the front was measured.

    Raises:
        InputError: The folder is not the run of a search that has ended, or its space has changed in code.
    """
    run = Path(run)
    if (run / STUDY_FILE).is_file() and not (run / MANIFEST).is_file():
        hint = f"call hwnas.optimize again with out={str(run)!r}: evaluations that are stored are not repeated"
        raise InputError(f"{run} must be the run of a search", got="a study of hwnas.optimize", hint=hint)
    record = read_record(run)
    space = record.spec.load_space(run)
    problem = record.spec.make_problem(space)
    with Study.read(run) as study:
        searched = study.table(space=space)
        known = study.table(sources=("measured", *SEARCHED))
    candidates = space.candidates(known.genomes)
    members = {} if record.verification is None else {item.arch_id: item for item in record.verification.members}
    front = set(record.front if record.measured_front is None else record.measured_front)
    feasible = problem.scores(searched.metrics).feasible.tolist()
    for row, candidate in enumerate(candidates):
        if candidate.id in members:
            feasible[row] = not members[candidate.id].violated
    return SearchResult(
        space=space,
        objectives=problem.objectives,
        constraints=problem.constraints,
        networks=make_networks(
            candidates,
            values={name: estimate.mean.tolist() for name, estimate in known.metrics.items()},
            intervals={
                name: list(zip(estimate.lower.tolist(), estimate.upper.tolist(), strict=True))
                for name, estimate in known.metrics.items()
                if (estimate.lower < estimate.upper).any()
            },
            feasible=feasible,
            on_front=[candidate.id in front for candidate in candidates],
        ),
        hypervolume=record.history[-1][2] if record.history else None,
        evaluations=record.evaluations,
        stop=record.stop,
    )


def _holds(constraint: Constraint, value: float) -> bool:
    return value <= constraint.bound if constraint.sense == "<=" else value >= constraint.bound


def make_networks(
    candidates: Sequence[Candidate],
    *,
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
    feasible: Sequence[bool],
    on_front: Sequence[bool],
) -> tuple[FoundNetwork, ...]:
    """Return the networks of a result from its columns."""
    return tuple(
        FoundNetwork(
            candidate=candidate,
            metrics={name: float(column[row]) for name, column in values.items()},
            intervals={name: column[row] for name, column in intervals.items()},
            feasible=bool(feasible[row]),
            on_front=bool(on_front[row]),
        )
        for row, candidate in enumerate(candidates)
    )
