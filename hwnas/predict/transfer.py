"""A predictor for a new device from a few measurements and the predictors of other devices.

Several ways are tried: the simple models from scratch, one source scaled, one bent (its logarithm times a power), and
several sources as a basis (their main common directions, a robust Bayesian ridge on them). They are mixed by their
leave-one-out answers on the few measured networks, so a source that does not help is left aside. A network that was
measured twice is left out with both of its rows. To choose a single way would be a gamble: with ten networks the least
leave-one-out error is often that of a poor way. A source helps where the mixture is better than the best model from
scratch. A source of another runtime or kind of device must do so clearly, with less than half the error: by a few
networks alone such a source looks good too often.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features, answer_name
from hwnas.predict.folds import Fold, group_equal_networks, make_folds
from hwnas.predict.metrics import Scores, scores
from hwnas.predict.models import (
    AnalyticLearner,
    Fitted,
    GaussianLearner,
    Learner,
    Scaled,
    Stack,
    stack_weights,
)
from hwnas.predict.models.model import checked
from hwnas.predict.models.scaled import source_logs

MIN_NETWORKS = 4
"""Fewer measured networks cannot gate a source."""
SCRATCH = "from scratch"
SIMPLE: tuple[Learner, ...] = (AnalyticLearner(), GaussianLearner())
"""Models that a few networks suffice for; a ridge regression on all costs does not work with ten."""
SCRATCHES = (SCRATCH, *(f"{SCRATCH}, {learner.name}" for learner in SIMPLE[1:]))
"""Their names; the first one is the analytic model."""
_RANK = 4
_SMALLEST_SPREAD = 0.005
_SMALLEST_SHARE = 0.02
_CLEARLY = 0.5


@dataclass(frozen=True, kw_only=True)
class Way:
    """A transfer-learning method and its source devices."""

    sources: tuple[str, ...]
    fit: Callable[[Features, Numbers], Fitted]


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """The model for the new device, with the weights and scores of its methods."""

    fitted: Fitted
    target: Numbers
    shares: Mapping[str, float]
    """Weight of each method; negligible ones are left out."""
    ranking: Mapping[str, Scores]
    """Leave-one-out scores of each method, best first."""
    by_way: Mapping[str, Numbers]
    """The leave-one-out answers of each way."""
    answers: Numbers
    """The mixture of the ways' leave-one-out answers, one a row."""
    folds: tuple[Fold, ...]
    """Rows left out together: those of one network."""

    @property
    def leans(self) -> bool:
        """True if the sources help: they have weight, and the mixture is better than every model from scratch."""
        return any(name not in SCRATCHES for name in self.shares) and self.mape < self.scratch.mape

    @property
    def mape(self) -> float:
        """The mixture's own error."""
        return float(np.abs(self.answers / self.target - 1).mean())

    @property
    def scratch(self) -> Scores:
        """The best of what needs no source."""
        return next(found for name, found in self.ranking.items() if name in SCRATCHES)


def transfer(
    features: Features, target: Numbers, *, sources: Sequence[str], unlike: Collection[str] = ()
) -> Transferred:
    """A mixture of the ways to use other devices' models, whose answers the features hold, for a new device.

    `unlike` are the sources of another runtime or kind of device.
    """
    target, _ = checked(features, target, None)
    labels = _networks(features, sources)
    if len(set(labels)) < MIN_NETWORKS:
        raise InputError(f"a transfer needs at least {MIN_NETWORKS} measured networks", got=len(set(labels)))
    folds = make_folds(len(target), num_folds=len(set(labels)), seed=0, groups=labels)
    tried = ways(sources, unlike=unlike)
    answers = {name: _left_out(way, features, target, folds) for name, way in tried.items()}
    ranking = dict(sorted(((name, scores(given, target)) for name, given in answers.items()), key=_by_error))
    allowed = _allowed(tried, ranking, unlike)
    weights = stack_weights([answers[name] for name in allowed], target)
    kept = {name: float(weight) for name, weight in zip(allowed, weights, strict=True) if weight > _SMALLEST_SHARE}
    shares = {name: weight / sum(kept.values()) for name, weight in kept.items()}
    mixed = np.exp(sum(share * np.log(answers[name]) for name, share in shares.items()))
    members = tuple(tried[name].fit(features, target) for name in shares)
    fitted = Stack(members=members, weights=np.array(list(shares.values())))
    return Transferred(
        fitted=fitted, target=target, by_way=answers, shares=shares, ranking=ranking, answers=mixed, folds=folds
    )


def _allowed(tried: Mapping[str, Way], ranking: Mapping[str, Scores], unlike: Collection[str]) -> list[str]:
    """The ways that may be mixed, in their order."""
    bound = _CLEARLY * min(ranking[name].mape for name in SCRATCHES)
    return [name for name, way in tried.items() if ranking[name].mape < bound or not set(way.sources) & set(unlike)]


def _networks(features: Features, sources: Sequence[str]) -> list[int]:
    """Return a group number per network, by its own features, not by the answers of the sources."""
    return group_equal_networks(_own(features, sources))


def _own(features: Features, sources: Sequence[str]) -> Features:
    """The features without what other devices say."""
    own = [name for name in features.shape_names if name not in set(map(answer_name, sources))]
    return replace(features, shape_names=tuple(own), shapes=features.shapes_by(own))


def ways(sources: Sequence[str], *, unlike: Collection[str] = ()) -> dict[str, Way]:
    """The ways to make a model from a few measurements, by name."""
    found = {name: _scratch(learner, sources) for name, learner in zip(SCRATCHES, SIMPLE, strict=True)}
    for source in sources:
        found[f"{source} scaled"] = _scaled(source)
        found[f"{source} bent"] = _basis((source,))
    alike = tuple(source for source in sources if source not in unlike)
    if len(alike) > 1:
        found["basis"] = _basis(alike)
    if len(sources) > max(len(alike), 1):
        found["basis of all"] = _basis(tuple(sources))
    return found


def _scratch(learner: Learner, sources: Sequence[str]) -> Way:
    """A model that sees nothing of the sources."""

    def fit(features: Features, target: Numbers) -> Fitted:
        return learner.fit(_own(features, sources), target)

    return Way(sources=(), fit=fit)


def _scaled(source: str) -> Way:
    """A source times the median ratio to it."""

    def fit(features: Features, target: Numbers) -> Fitted:
        logs = source_logs((source,), features)
        offset = float(np.median(np.log(target) - logs[:, 0]))
        return Scaled(sources=(source,), weights=np.ones(1), centres=np.zeros(1), offset=offset)

    return Way(sources=(source,), fit=fit)


def _basis(sources: tuple[str, ...]) -> Way:
    """A robust Bayesian ridge on the main common directions of the sources' logarithms.

    The prior is the sources' own mean, scaled: a weight of 1 in all on what they agree upon, 0 on what they differ in.
    """

    def fit(features: Features, target: Numbers) -> Fitted:
        logs = source_logs(sources, features)
        centres = logs.mean(axis=0)
        directions = _directions(logs - centres)
        coordinates = (logs - centres) @ directions
        prior = np.linalg.pinv(directions) @ np.full(len(sources), 1 / len(sources))
        offset, weights = _bayesian(coordinates, np.log(target), prior=prior)
        return Scaled(sources=sources, weights=directions @ weights, centres=centres, offset=offset)

    return Way(sources=sources, fit=fit)


def _directions(centred: Numbers) -> Numbers:
    """The main common directions, a column of length 1 each."""
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    kept = np.flatnonzero(spread > 1e-3 * max(float(spread[0]), 1e-12))[:_RANK]
    main: Numbers = directions[kept].T
    return main


def _bayesian(coordinates: Numbers, logs: Numbers, *, prior: Numbers) -> tuple[float, Numbers]:
    """Offset and weights; the noise is that of the residual, outliers count less."""
    left = logs - coordinates @ prior
    robust, weights, offset = np.ones(len(logs)), prior, float(np.median(left))
    for _ in range(8):
        residual = logs - offset - coordinates @ weights
        spread = max(1.4826 * float(np.median(abs(residual))), _SMALLEST_SPREAD)
        robust = 1 / (1 + (residual / (2 * spread)) ** 2)
        penalty = spread**2 / 0.3**2 * np.eye(coordinates.shape[1])
        offset = float(np.average(logs - coordinates @ weights, weights=robust))
        weighted = coordinates * robust[:, None]
        right = weighted.T @ (logs - offset - coordinates @ prior)
        weights = prior + np.linalg.solve(weighted.T @ coordinates + penalty, right)
    return offset, weights


def _left_out(way: Way, features: Features, target: Numbers, folds: Sequence[Fold]) -> Numbers:
    answers = np.zeros(len(target))
    for fold in folds:
        fitted = way.fit(features.take(fold.fit), target[fold.fit])
        answers[fold.held_out] = fitted.predict(features.take(fold.held_out))
    return answers


def _by_error(item: tuple[str, Scores]) -> float:
    return item[1].mape
