"""Selection of the networks to measure next: those on which models disagree and that differ from the measured ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers, round_last_bits
from hwnas.predict.features.table import Features
from hwnas.predict.intervals import Unusual
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
    """The numbers of `count` candidates, in the order in which they should be measured.

    Each next one is the farthest from all measured and chosen ones, distances counted more where a committee of
    models, each fitted to a resample of the measured networks, disagrees; `uncertainty` is the power of that weight.
    """
    if not 1 <= count <= len(candidates):
        raise InputError("there must be as many candidates as are to be chosen", got=f"{count} of {len(candidates)}")
    space = Unusual.of(candidates)
    places, taken = space.coordinates(candidates), space.coordinates(measured)
    weight = _disagreement(candidates, measured, target, seed=seed) ** uncertainty
    return _farthest(places, taken, weight, count=count)


def spread_out(candidates: Features, *, count: int, seed: int = 0) -> NDArray[np.intp]:
    """The numbers of `count` candidates that lie far from each other, to begin with."""
    if not 1 <= count <= len(candidates):
        raise InputError("there must be as many candidates as are to be chosen", got=f"{count} of {len(candidates)}")
    places = Unusual.of(candidates).coordinates(candidates)
    first = int(np.random.default_rng(seed).integers(len(candidates)))
    rest = _farthest(places, places[first : first + 1], np.ones(len(places)), count=count - 1)
    return np.concatenate([[first], rest]).astype(np.intp)


def _disagreement(candidates: Features, measured: Features, target: Numbers, *, seed: int) -> Numbers:
    """The spread of the committee's logarithms, as a multiple of the median one."""
    rng = np.random.default_rng(seed)
    logs = []
    for _ in range(_COMMITTEE):
        rows = rng.choice(len(target), len(target))
        logs.append(np.log(AnalyticLearner().fit(measured.take(rows), target[rows]).predict(candidates)))
    spread: Numbers = np.std(logs, axis=0)
    return spread / max(float(np.median(spread)), 1e-9) + 0.1


def _farthest(places: Numbers, taken: Numbers, weight: Numbers, *, count: int) -> NDArray[np.intp]:
    chosen: list[int] = []
    distance = _nearest(places, taken)
    for _ in range(count):
        merit = np.where(np.isin(np.arange(len(places)), chosen), -1.0, distance * weight)
        chosen.append(int(np.argmax(round_last_bits(merit))))
        distance = np.minimum(distance, _nearest(places, places[chosen[-1:]]))
    return np.array(chosen, dtype=np.intp)


def _nearest(places: Numbers, taken: Numbers | Sequence[Numbers]) -> Numbers:
    """The distance of each place to the nearest of those taken."""
    nearest = np.full(len(places), np.inf)
    for place in np.asarray(taken):
        nearest = np.minimum(nearest, np.sqrt(((places - place) ** 2).mean(axis=1)))
    return nearest
