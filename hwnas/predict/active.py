"""Selection of the networks to measure next: those on which models disagree and that differ from the measured ones."""

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers, round_last_bits
from hwnas.predict.features.table import Features
from hwnas.predict.features.terms import is_moving
from hwnas.predict.intervals import WhitenedComponents
from hwnas.predict.models.analytic import AnalyticLearner

_COMMITTEE = 8
_USUAL = 3
"""One of so many candidates is usual enough to represent the others."""
_CALL_MS = 0.004


def choose_next(
    candidates: Features,
    measured: Features,
    target: Numbers,
    *,
    count: int,
    seed: int = 0,
    uncertainty: float = 0.5,
) -> NDArray[np.intp]:
    """Return the rows of the candidates to measure next, in order.

    Each is the farthest from all measured and chosen ones, with distances weighted by the disagreement of a committee
    of models that are fitted to resamples of the measured networks (query by committee, Seung et al. 1992).

    Args:
        candidates: Features of networks that may be measured.
        measured: Features of measured networks.
        target: Measured values.
        count: Number of candidates to choose.
        seed: Seed of the resamples.
        uncertainty: Exponent of the disagreement; at 0 only distances count.

    Raises:
        InputError: There are fewer candidates than are to be chosen.
    """
    if not 1 <= count <= len(candidates):
        raise InputError("there must be as many candidates as are to be chosen", got=f"{count} of {len(candidates)}")
    components = WhitenedComponents.fit(candidates)
    points, taken = components.coordinates(candidates), components.coordinates(measured)
    weight = _disagreement(candidates, measured, target, seed=seed) ** uncertainty
    return _farthest(points, taken, weight, count=count)


def spread_out(candidates: Features, *, count: int, seed: int = 0) -> NDArray[np.intp]:
    """Return the rows of `count` candidates that lie far from each other, for a first round of measurements."""
    if not 1 <= count <= len(candidates):
        raise InputError("there must be as many candidates as are to be chosen", got=f"{count} of {len(candidates)}")
    points = WhitenedComponents.fit(candidates).coordinates(candidates)
    first = int(np.random.default_rng(seed).integers(len(candidates)))
    rest = _farthest(points, points[first : first + 1], np.ones(len(points)), count=count - 1)
    return np.concatenate([[first], rest]).astype(np.intp)


def representative(candidates: Features, *, count: int) -> NDArray[np.intp]:
    """Return the rows of `count` usual candidates that differ in size and in what limits them.

    They serve to find the few factors by which a device differs from others. Unusual networks, which `spread_out`
    prefers, have errors of their own that would be taken for such a factor; only the most usual third is eligible.
    """
    if not 1 <= count <= len(candidates):
        raise InputError("there must be as many candidates as are to be chosen", got=f"{count} of {len(candidates)}")
    distance = WhitenedComponents.fit(candidates).distance(candidates)
    order = np.argsort(round_last_bits(distance), kind="stable")
    eligible = np.sort(order[: max(len(order) // _USUAL, min(2 * count, len(order)))])
    points = _limits(candidates.take(eligible))
    points = (points - points.mean(axis=0)) / np.maximum(points.std(axis=0), 1e-9)
    first = int(np.argmin(round_last_bits((points**2).sum(axis=1))))
    rest = _farthest(points, points[first : first + 1], np.ones(len(points)), count=count - 1)
    return np.sort(eligible[np.concatenate([[first], rest]).astype(np.intp)])


def _limits(features: Features) -> Numbers:
    """Return the logarithm of the total cost, and the shares of moving data and of calls in it."""
    names = features.cost_names
    calls = [name for name in names if name.startswith("calls.")]
    moving = [name for name in names if is_moving(name)]
    total, called = features.total(), _CALL_MS * features.costs_by(calls).sum(axis=1)
    return np.column_stack([np.log(total), features.costs_by(moving).sum(axis=1) / total, np.log1p(called / total)])


def _disagreement(candidates: Features, measured: Features, target: Numbers, *, seed: int) -> Numbers:
    """Return the standard deviation of the committee's logarithms as a multiple of the median one."""
    rng = np.random.default_rng(seed)
    logs = []
    for _ in range(_COMMITTEE):
        rows = rng.choice(len(target), len(target))
        logs.append(np.log(AnalyticLearner().fit(measured.take(rows), target[rows]).predict(candidates)))
    spread: Numbers = np.std(logs, axis=0)
    return spread / max(float(np.median(spread)), 1e-9) + 0.1


def _farthest(points: Numbers, taken: Numbers, weight: Numbers, *, count: int) -> NDArray[np.intp]:
    # Farthest-point selection: each candidate that is chosen reduces the distances of those near it.
    chosen: list[int] = []
    distance = _nearest(points, taken)
    for _ in range(count):
        merit = np.where(np.isin(np.arange(len(points)), chosen), -1.0, distance * weight)
        chosen.append(int(np.argmax(round_last_bits(merit))))
        distance = np.minimum(distance, _nearest(points, points[chosen[-1:]]))
    return np.array(chosen, dtype=np.intp)


def _nearest(points: Numbers, taken: Numbers) -> Numbers:
    """Return the distance of each point to the nearest taken one."""
    nearest = np.full(len(points), np.inf)
    for point in taken:  # one at a time: all differences at once would not fit into the cache
        nearest = np.minimum(nearest, np.sqrt(((points - point) ** 2).mean(axis=1)))
    return nearest
