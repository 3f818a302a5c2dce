"""What a search is asked for: objectives that are made better, constraints that must hold."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.errors import InputError
from hwnas.metrics import Metric, parse_metric

Sense = Literal["<=", ">="]

Values = NDArray[np.float64]
_CONSTRAINT = re.compile(r"\s*([^<>=\s]+)\s*([<>=]+)\s*([^<>=]*?)\s*")


class Estimate(NamedTuple):
    """One metric of a population, a value per row, and the ends of the interval that it lies in."""

    mean: Values
    lower: Values
    upper: Values

    def rows(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Estimate":
        """Some of the rows."""
        return Estimate(self.mean[index], self.lower[index], self.upper[index])


Metrics = Mapping[str, Estimate]
"""Estimates by the text of their metric."""


def exact(values: ArrayLike) -> Estimate:
    """Values that are known as they are."""
    array = np.asarray(values, dtype=np.float64)
    return Estimate(array, array, array)


def rows_of(metrics: Metrics, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> dict[str, Estimate]:
    """Some of the rows of every metric."""
    return {name: estimate.rows(index) for name, estimate in metrics.items()}


def joined(parts: Sequence[Metrics]) -> dict[str, Estimate]:
    """The rows of several tables, one after the other, of the metrics that all of them have."""
    names = [name for name in parts[0] if all(name in part for part in parts)] if parts else []
    return {name: _concatenated([part[name] for part in parts]) for name in names}


def _concatenated(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(*(np.concatenate(ends) for ends in zip(*estimates, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric to be made better: more of it or less, as its nature is."""

    metric: Metric

    def minimised(self, estimate: Estimate) -> NDArray[np.float64]:
        """Values of which less is better; here and in `value` the sign flips, and nowhere else."""
        return -estimate.mean if self.metric.maximised else estimate.mean

    def value(self, minimised: float) -> float:
        """The metric behind a value of `minimised`."""
        return -minimised if self.metric.maximised else minimised

    def __str__(self) -> str:
        return str(self.metric)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A bound on a metric."""

    metric: Metric
    sense: Sense
    bound: float

    def violation(self, estimate: Estimate, *, confident: bool = False) -> NDArray[np.float64]:
        """By which share of the bound it is missed, at most 0 where it holds; `confident`: by the unfavourable end."""
        if self.sense == "<=":
            excess = (estimate.upper if confident else estimate.mean) - self.bound
        else:
            excess = self.bound - (estimate.lower if confident else estimate.mean)
        return excess / (abs(self.bound) or 1.0)

    def __str__(self) -> str:
        return f"{self.metric}{self.sense}{self.bound:g}"


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """The objectives and constraints of a search."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of objectives and constraints, each once."""
        named = [item.metric for item in self.objectives]
        return tuple(dict.fromkeys([*named, *(item.metric for item in self.constraints)]))

    @property
    def device_metrics(self) -> tuple[Metric, ...]:
        """The metrics whose values depend on a device."""
        return tuple(metric for metric in self.metrics if metric.quantity.on_device)

    @property
    def has_accuracy(self) -> bool:
        """True if accuracy is an objective or has a bound."""
        return any(metric.name == "accuracy" for metric in self.metrics)

    def with_metrics(self, replacements: Mapping[Metric, Metric]) -> "Criteria":
        """Return the criteria with some metrics replaced."""
        objectives = [replace(item, metric=replacements.get(item.metric, item.metric)) for item in self.objectives]
        constraints = [replace(item, metric=replacements.get(item.metric, item.metric)) for item in self.constraints]
        return Criteria(objectives=tuple(objectives), constraints=tuple(constraints))


def parse_objective(text: str) -> Objective:
    """The objective that a text names: `throughput`, `latency_ms@cpu`."""
    return Objective(metric=parse_metric(text, what="objective"))


def parse_constraint(text: str) -> Constraint:
    """The constraint that a text states: `latency_ms<=8`, `macs<=1.4G`, `accuracy>=75%`."""
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise InputError("a constraint must be METRIC<=BOUND or METRIC>=BOUND", got=text, hint="latency_ms<=8")
    name, sense, bound = match.groups()
    metric = parse_metric(name, what="metric of a constraint")
    if sense not in ("<=", ">="):
        near = "<=" if "<" in sense else ">="
        raise InputError("a constraint must be METRIC<=BOUND or METRIC>=BOUND", got=text, hint=f"{name}{near}{bound}")
    constraint = Constraint(metric=metric, sense="<=" if sense == "<=" else ">=", bound=metric.quantity.parse(bound))
    _require_possible(constraint, text=text)
    return constraint


def make_objectives(texts: Iterable[str], *, accuracy: bool = True, macs: bool = True) -> tuple[Objective, ...]:
    """The objectives of a search: accuracy and MACs unless they are left out, then those that are named."""
    always = [name for name, wanted in (("accuracy", accuracy), ("macs", macs)) if wanted]
    objectives = [parse_objective(text) for text in dict.fromkeys([*always, *texts])]
    require_objectives(objectives)
    return tuple(objectives)


def require_objectives(objectives: Sequence[Objective]) -> None:
    """There must be at least one objective, and none twice."""
    if not objectives:
        raise InputError("a search needs at least one objective", hint="--objective throughput")
    names = [str(objective) for objective in objectives]
    if len(set(names)) < len(names):
        raise InputError("an objective must not be named twice", got=", ".join(names))


def require_consistent(constraints: Sequence[Constraint]) -> None:
    """No two constraints may exclude each other."""
    for upper in constraints:
        for lower in constraints:
            opposed = upper.metric == lower.metric and (upper.sense, lower.sense) == ("<=", ">=")
            if opposed and lower.bound > upper.bound:
                raise InputError("constraints must not exclude each other", got=f"{lower} and {upper}")


def _require_possible(constraint: Constraint, *, text: str) -> None:
    most = constraint.metric.quantity.most
    name = constraint.metric.name
    if constraint.sense == ">=" and constraint.bound > most:
        hint = f"{name}>={constraint.bound:g}%" if name == "accuracy" else None
        raise InputError(f"no network has {name} above {most:g}", got=text, hint=hint)
    if constraint.sense == "<=" and constraint.bound <= 0:
        raise InputError(f"no network has {name} of {constraint.bound:g} or less", got=text)
