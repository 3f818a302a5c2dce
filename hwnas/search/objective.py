"""Objectives and constraints of a search, and the values that they are computed from."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.config import shown
from hwnas.errors import InputError, UnknownNameError, unknown
from hwnas.metrics import METRICS, QUALITIES, Metric, Quantity, parse_metric

Sense = Literal["<=", ">="]

Values = NDArray[np.float64]
_LARGEST_BOUND = 1e30
"""Beyond it, and below its inverse, shares of a bound overflow."""
_CONSTRAINT = re.compile(r"\s*([^<>=\s]+)\s*([<>=]+)\s*([^<>=]*?)\s*")


class Estimate(NamedTuple):
    """One metric of a population, a value per row, with the ends of its interval; all are equal where it is exact."""

    mean: Values
    lower: Values
    upper: Values

    def rows(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Estimate":
        """Return some of the rows."""
        return Estimate(self.mean[index], self.lower[index], self.upper[index])


Metrics = Mapping[str, Estimate]
"""Estimates by the text of their metric."""


def exact(values: ArrayLike) -> Estimate:
    """Return an estimate of values that are known exactly."""
    array = np.asarray(values, dtype=np.float64)
    return Estimate(array, array, array)


def select_rows(metrics: Metrics, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> dict[str, Estimate]:
    """Return some of the rows of every metric."""
    return {name: estimate.rows(index) for name, estimate in metrics.items()}


def concatenated(parts: Sequence[Metrics]) -> dict[str, Estimate]:
    """Concatenate the rows of several tables, in the metrics that all of them have."""
    names = [name for name in parts[0] if all(name in part for part in parts)] if parts else []
    return {name: Estimate(*map(np.concatenate, zip(*(part[name] for part in parts), strict=True))) for name in names}


@dataclass(frozen=True, kw_only=True)
class CallerMetric(Metric):
    """A metric of the caller of one search, which no registry knows."""

    own: Quantity = field(compare=False, repr=False)

    @property
    def quantity(self) -> Quantity:
        """The quantity that the caller computes."""
        return self.own


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric to maximise or minimise, depending on the metric."""

    metric: Metric

    def minimised(self, estimate: Estimate) -> NDArray[np.float64]:
        """Return values of which less is better; the sign flips here and in `value`, and nowhere else."""
        return -estimate.mean if self.metric.maximised else estimate.mean

    def value(self, minimised: float) -> float:
        """Return the metric's value for a value of `minimised`."""
        return -minimised if self.metric.maximised else minimised

    def __str__(self) -> str:
        return str(self.metric)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A bound on a metric."""

    metric: Metric
    sense: Sense
    bound: float

    def compared(self, estimate: Estimate, *, confident: bool = False) -> Values:
        """Return the values that are compared with the bound.

        Args:
            estimate: The constrained metric.
            confident: Compare the unfavourable end of the interval, not the mean.
        """
        if not confident:
            return estimate.mean
        return estimate.upper if self.sense == "<=" else estimate.lower

    def violation(self, estimate: Estimate, *, confident: bool = False) -> NDArray[np.float64]:
        """Return by which share of the bound each row misses it, at most 0 where the constraint holds."""
        values = self.compared(estimate, confident=confident)
        excess = values - self.bound if self.sense == "<=" else self.bound - values
        return excess / (abs(self.bound) or 1.0)

    def loosened(self, value: float) -> "Constraint":
        """Return the constraint on the same quantity of any device with a bound of three digits that a value meets."""
        step = 10.0 ** (math.floor(math.log10(abs(value) or 1.0)) - 2)
        steps = math.ceil(value / step) if self.sense == "<=" else math.floor(value / step)
        metric = self.metric if isinstance(self.metric, CallerMetric) else Metric(name=self.metric.name)
        return replace(self, metric=metric, bound=float(f"{steps * step:.3g}"))

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
    def quality(self) -> str | None:
        """The metric that a supernet evaluates, if one is an objective or has a bound."""
        return next((metric.name for metric in self.metrics if metric.name in QUALITIES), None)

    def with_metrics(self, replacements: Mapping[Metric, Metric]) -> "Criteria":
        """Return the criteria with some metrics replaced."""
        objectives = [replace(item, metric=replacements.get(item.metric, item.metric)) for item in self.objectives]
        constraints = [replace(item, metric=replacements.get(item.metric, item.metric)) for item in self.constraints]
        return Criteria(objectives=tuple(objectives), constraints=tuple(constraints))


def parse_objective(text: str, *, own: Mapping[str, Quantity] = MappingProxyType({})) -> Objective:
    """Parse the name of an objective: `throughput`, `latency_ms@cpu`; `own` are metrics of the caller, by name."""
    return Objective(metric=_parse_metric(text, what="objective", own=own))


def parse_constraint(text: str, *, own: Mapping[str, Quantity] = MappingProxyType({})) -> Constraint:
    """Parse a constraint: `latency_ms<=8`, `macs<=1.4G`, `accuracy>=75%`; `own` are metrics of the caller, by name."""
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise InputError("a constraint must be METRIC<=BOUND or METRIC>=BOUND", got=shown(text), hint="latency_ms<=8")
    name, sense, bound = match.groups()
    near = "<=" if "<" in sense else ">="
    try:
        metric = _parse_metric(name, what="metric of a constraint", own=own)
    except UnknownNameError as error:
        misspelled, at, where = name.partition("@")
        if error.hint is None or error.got != misspelled:  # else a part of the deployment
            raise
        hint = f"{error.hint}{at}{where}{near}{bound}"
        raise UnknownNameError(error.message, got=error.got, known=error.known, hint=hint) from error
    if sense not in ("<=", ">="):
        raise InputError("a constraint must be METRIC<=BOUND or METRIC>=BOUND", got=text, hint=f"{name}{near}{bound}")
    try:
        value = metric.quantity.parse(bound)
    except UnknownNameError as error:
        number = error.hint or bound.strip().removesuffix(str(error.got)).strip()
        raise UnknownNameError(
            error.message, got=error.got, known=error.known, hint=f"{name}{sense}{number}"
        ) from error
    constraint = Constraint(metric=metric, sense="<=" if sense == "<=" else ">=", bound=value)
    _require_possible(constraint, text=text)
    return constraint


def _parse_metric(text: str, *, what: str, own: Mapping[str, Quantity]) -> Metric:
    name = text.strip()
    if name in own:
        return CallerMetric(name=name, own=own[name])
    if own and name.partition("@")[0] not in METRICS:
        raise unknown(what, name, [*own, *METRICS])
    return parse_metric(text, what=what)


def make_objectives(texts: Iterable[str], *, accuracy: bool = True, macs: bool = True) -> tuple[Objective, ...]:
    """Return accuracy and MACs unless they are left out, then the objectives that are named.

    Another quality that is named stands in place of accuracy, in front.
    """
    named = list(dict.fromkeys(texts))
    others: list[str] = [text for text in named if text in QUALITIES and text != "accuracy"]
    first = others or (["accuracy"] if accuracy else [])
    always = [*first, *(["macs"] if macs else [])]
    objectives = [parse_objective(text) for text in dict.fromkeys([*always, *named])]
    require_objectives(objectives)
    return tuple(objectives)


def require_objectives(objectives: Sequence[Objective]) -> None:
    """Require at least one objective, and none twice."""
    if not objectives:
        raise InputError("a search needs at least one objective", hint="--objective throughput")
    names = [str(objective) for objective in objectives]
    if len(set(names)) < len(names):
        raise InputError("an objective must not be named twice", got=", ".join(names))


def require_one_quality(criteria: Criteria) -> None:
    """Require that a supernet evaluates networks for one metric alone."""
    names = [metric.name for metric in criteria.metrics if metric.name in QUALITIES]
    if len(names) > 1:
        message = "a search evaluates networks for one measure of their quality"
        raise InputError(message, got=" and ".join(names), known=QUALITIES)


def require_consistent(constraints: Sequence[Constraint]) -> None:
    """Require that no two constraints exclude each other."""
    for upper in constraints:
        for lower in constraints:
            opposed = upper.metric == lower.metric and (upper.sense, lower.sense) == ("<=", ">=")
            if opposed and lower.bound > upper.bound:
                raise InputError("constraints must not exclude each other", got=f"{lower} and {upper}")


def _require_possible(constraint: Constraint, *, text: str) -> None:
    metric, bound = constraint.metric, constraint.bound
    largest = metric.quantity.largest
    if not abs(bound) <= _LARGEST_BOUND:
        raise InputError(f"a bound of {metric.name} must be a number up to {_LARGEST_BOUND:g}", got=shown(text))
    if constraint.sense == ">=" and bound < 0:
        raise InputError(f"every network has {metric.name} above {bound:g}", got=shown(text))
    if constraint.sense == ">=" and bound > largest:
        likely = f"{bound:g}" if bound <= 100 else "99"
        hint = f"{metric.name}>={likely}%" if metric.quantity.is_share else None
        raise InputError(f"no network has {metric.name} above {largest:g}", got=text, hint=hint)
    if constraint.sense == "<=" and bound <= 0:
        raise InputError(f"no network has {metric.name} of {bound:g} or less", got=text)
