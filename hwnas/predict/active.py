"""Selection of the networks to measure next: those on which models disagree and that differ from the measured ones."""

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers, round_last_bits
from hwnas.predict.features.table import Features
from hwnas.predict.intervals import WhitenedComponents
from hwnas.predict.models.analytic import AnalyticLearner

_COMMITTEE = 8


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
