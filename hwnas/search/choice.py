"""Choice of one network of a front: the balanced one, the most accurate, the fastest, or the best within limits.

The balanced network follows from errors and speed alone, both on logarithmic axes, as users compare networks by ratios:

1. Only networks with at most 1.5 times the errors of the most accurate one are considered. This is what users give for
   speed; faster networks than these do not change the choice.
2. Of them it is the one farthest above the line between the most accurate and the fastest. If none lies above it, it
   is the fastest: its accuracy is still within what users give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError, unknown
from hwnas.metrics import QUALITIES, TIMED_METRICS, Metric, Quantity
from hwnas.search.objective import Constraint, parse_constraint
from hwnas.search.pareto import knee, known_rows

Values = NDArray[np.float64]

PickName = Literal["balanced", "accuracy", "fast"]
PICKS: tuple[PickName, ...] = ("balanced", "accuracy", "fast")

MOST_ERRORS = 1.5
"""Errors of a balanced network at most, relative to those of the most accurate one."""

_FEWEST_ERRORS = 1e-3
"""Error rates below it are taken as this one: with so few errors, their ratio says little."""

_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A rule by which one network of a front is chosen."""

    name: PickName | None
    """None: the best first objective within limits."""
    limits: tuple[Constraint, ...] = ()

    @classmethod
    def parse(cls, text: str, *, own: Mapping[str, Quantity] = MappingProxyType({})) -> "Pick":
        """Read `balanced`, `accuracy`, `fast`, or limits such as `throughput>=9000,macs<=1G`.

        Args:
            text: The rule.
            own: Metrics of the caller, by name.

        Raises:
            InputError: It is none of these.
        """
        for name in PICKS:
            if text.strip().casefold() == name:
                return cls(name=name)
        if not any(sign in text for sign in "<>="):
            raise unknown("pick", text, (*PICKS, "throughput>=9000"), hint="--pick {}")
        return cls(name=None, limits=tuple(parse_constraint(part, own=own) for part in text.split(",")))

    def __str__(self) -> str:
        return self.name or ",".join(map(str, self.limits))

    def why(self, objectives: Sequence[Metric]) -> str:
        """Say by which rule the network was chosen."""
        if self.name is None:
            return f"the best {objectives[0].name} with {' and '.join(map(str, self.limits))}"
        reasons = {"balanced": "balanced: few errors for its speed", "fast": "the fastest"}
        return reasons.get(self.name, "the most accurate")

    def choose(self, objectives: Sequence[Metric], columns: Mapping[Metric, Values]) -> int | None:
        """Return the row of the chosen network; None if no network meets the limits.

        Args:
            objectives: The objectives of the search.
            columns: Values of metrics, one for each network; those of the objectives are among them.

        Raises:
            InputError: A limit is on a metric without values, or the search had no accuracy.
        """
        if self.name == "balanced":
            return balanced(objectives, np.stack([columns[metric] for metric in objectives], axis=1))
        if self.name == "fast":
            return _least(_cost(objectives, columns))
        if self.name == "accuracy":
            quality = next((metric for metric in objectives if metric.name in QUALITIES), None)
            if quality is None:
                message = "the search must have had accuracy as an objective"
                raise InputError(message, got=", ".join(map(str, objectives)), hint="--pick fast")
            return _least(_minimised(quality, columns))
        return _least(np.where(self._within(columns), _minimised(objectives[0], columns), np.nan))

    def looser(self, columns: Mapping[Metric, Values]) -> tuple[str, "Pick | None"]:
        """Say what networks have of the limits that none of them meets, with the limits that one meets.

        Args:
            columns: Values of metrics, one for each network; those of the limits are among them.
        """
        limits, best = [], []
        for limit in self.limits:
            metric = _find(limit.metric, tuple(columns))
            known = columns[metric][~np.isnan(columns[metric])]
            if not len(known):
                return "", None
            value = float(known.min() if limit.sense == "<=" else known.max())
            is_met = value <= limit.bound if limit.sense == "<=" else value >= limit.bound
            limits.append(limit if is_met else replace(limit.loosened(value), metric=limit.metric))
            best += [] if is_met else [f"{limit.metric} of {metric.shown(value)} at best"]
        rule = Pick(name=None, limits=tuple(limits))
        return ", ".join(best), rule if rule._within(columns).any() else None

    def require_known(self, metrics: Sequence[Metric], *, resolved: bool) -> None:
        """Require that all limits are on metrics of a search.

        Args:
            metrics: The metrics of the search.
            resolved: Their deployments are known; otherwise names alone are compared.
        """
        for limit in self.limits:
            _find(limit.metric if resolved else Metric(name=limit.metric.name), metrics)

    def _within(self, columns: Mapping[Metric, Values]) -> NDArray[np.bool_]:
        within = np.ones(len(next(iter(columns.values()))), dtype=np.bool_)
        for limit in self.limits:
            values = columns[_find(limit.metric, tuple(columns))]
            within &= values <= limit.bound if limit.sense == "<=" else values >= limit.bound
        return within


def balanced(objectives: Sequence[Metric], values: Values) -> int | None:
    """Return the row of the balanced network of a front.

    Without a share such as accuracy among the objectives, or without a cost, it is the knee in all objectives, scaled
    to the range of the front.

    Args:
        objectives: The objectives of the search.
        values: Their values, of shape (networks, objectives); a network with unknown ones is not chosen.

    Returns:
        The row; None if no network has all values.
    """
    columns = {metric: values[:, index] for index, metric in enumerate(objectives)}
    rows = np.flatnonzero(known_rows(values))
    if not len(rows):
        return None
    quality = next((metric for metric in objectives if metric.quantity.is_share), None)
    if quality is None or len(objectives) == 1:
        signed = np.stack([_minimised(metric, columns) for metric in objectives], axis=1)
        place = knee(signed[rows])
        return None if place is None else int(rows[place])
    errors = np.log(np.maximum(1 - columns[quality][rows], _FEWEST_ERRORS))
    near = errors <= errors.min() + np.log(MOST_ERRORS) + _TOLERANCE
    rows, errors, cost = rows[near], errors[near], _cost(objectives, columns)[rows[near]]
    # With both scaled to their ranges, the line between the extremes is where the sum is 1.
    sums = _scaled(errors) + _scaled(cost)
    above = sums < 1 - _TOLERANCE
    return int(rows[np.lexsort((errors, cost if not above.any() else sums))[0]])


def _scaled(values: Values) -> Values:
    width = float(np.ptp(values))
    shares: Values = (values - values.min()) / (width or 1.0)
    return shares


def _cost(objectives: Sequence[Metric], columns: Mapping[Metric, Values]) -> Values:
    """Return the mean logarithm of what a network costs: its times, else what else is measured, else its size."""
    others = [metric for metric in objectives if metric.name not in QUALITIES]
    groups = (
        [metric for metric in others if metric.name in TIMED_METRICS],
        [metric for metric in others if metric.quantity.on_device],
        others,
    )
    chosen = next((group for group in groups if group), list(objectives))
    logs = [_sign(metric) * np.log(np.maximum(columns[metric], np.finfo(float).tiny)) for metric in chosen]
    return np.asarray(np.mean(logs, axis=0))


def _minimised(metric: Metric, columns: Mapping[Metric, Values]) -> Values:
    return _sign(metric) * columns[metric]


def _sign(metric: Metric) -> float:
    return -1.0 if metric.maximised else 1.0


def _least(values: Values) -> int | None:
    return None if np.isnan(values).all() else int(np.nanargmin(values))


def _find(wanted: Metric, known: Sequence[Metric]) -> Metric:
    """Return the first metric that has all that another one specifies."""
    for metric in known:
        if wanted.matches(metric):
            return metric
    raise unknown("metric of the search", str(wanted), [str(metric) for metric in known])
