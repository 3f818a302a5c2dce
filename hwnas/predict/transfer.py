"""Transfer learning: a model for a new device from a few measurements and the predictors of other devices.

Several methods are tried: simple models fitted from scratch, a source scaled by a factor, a source with its logarithm
scaled too ("bent"), and several sources as a basis (a robust Bayesian ridge on their main common directions). The
methods are mixed with weights fitted to their leave-one-out predictions of the measured networks, so a source that does
not help gets no weight. All rows of a network are left out together. Choosing a single method would be unreliable: with
ten networks the least leave-one-out error is often that of a poor method. A source of another runtime or kind of device
is used only if it has less than half the error of the models from scratch, because with few networks such sources look
good by chance.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features, source_column
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
from hwnas.predict.models.model import check_fit_inputs
from hwnas.predict.models.scaled import source_logs

MIN_NETWORKS = 4
"""Least number of measured networks; with fewer, leave-one-out errors do not show if a source helps."""
SCRATCH = "from scratch"
SIMPLE: tuple[Learner, ...] = (AnalyticLearner(), GaussianLearner())
"""Models that need few networks; a ridge regression on all costs does not work with ten."""
SCRATCHES = (SCRATCH, *(f"{SCRATCH}, {learner.name}" for learner in SIMPLE[1:]))
"""Names of the methods without sources; the first is the analytic model."""
_RANK = 4
_SMALLEST_SPREAD = 0.005
_SMALLEST_SHARE = 0.02
_CLEARLY = 0.5


@dataclass(frozen=True, kw_only=True)
class TransferMethod:
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
    by_method: Mapping[str, Numbers]
    """Leave-one-out predictions of each method."""
    mixed: Numbers
    """Leave-one-out predictions of the mixture."""
    folds: tuple[Fold, ...]
    """Rows that were left out together: those of one network."""

    @property
    def sources_help(self) -> bool:
        """True if sources have weight and the mixture is better than every model from scratch."""
        return any(name not in SCRATCHES for name in self.shares) and self.mape < self.scratch.mape

    @property
    def mape(self) -> float:
        """Mean absolute relative error of the mixture."""
        return float(np.abs(self.mixed / self.target - 1).mean())

    @property
    def scratch(self) -> Scores:
        """Scores of the best method without sources."""
        return next(scored for name, scored in self.ranking.items() if name in SCRATCHES)


def transfer(
    features: Features, target: Numbers, *, sources: Sequence[str], unlike: Collection[str] = ()
) -> Transferred:
    """Fit a mixture of transfer methods to the measurements of a new device.

    Args:
        features: Features of the measured networks, with the predictions of the sources among the shapes.
        target: Positive values to predict, one per row.
        sources: Names of the source devices.
        unlike: Sources of another runtime or kind of device, which must help clearly to be used.

    Raises:
        InputError: There are fewer than four networks.
    """
    target, _ = check_fit_inputs(features, target, None)
    labels = group_equal_networks(_own(features, sources))
    if len(set(labels)) < MIN_NETWORKS:
        raise InputError(f"a transfer needs at least {MIN_NETWORKS} measured networks", got=len(set(labels)))
    folds = make_folds(len(target), num_folds=len(set(labels)), seed=0, groups=labels)
    methods = transfer_methods(sources, unlike=unlike)
    by_method = {name: _left_out(method, features, target, folds) for name, method in methods.items()}
    scored = {name: scores(predicted, target) for name, predicted in by_method.items()}
    ranking = dict(sorted(scored.items(), key=lambda item: item[1].mape))
    allowed = _allowed(methods, ranking, unlike)
    weights = stack_weights([by_method[name] for name in allowed], target)
    kept = {name: float(weight) for name, weight in zip(allowed, weights, strict=True) if weight > _SMALLEST_SHARE}
    shares = {name: weight / sum(kept.values()) for name, weight in kept.items()}
    mixed = np.exp(sum(share * np.log(by_method[name]) for name, share in shares.items()))
    members = tuple(methods[name].fit(features, target) for name in shares)
    fitted = Stack(members=members, weights=np.array(list(shares.values())))
    return Transferred(
        fitted=fitted, target=target, by_method=by_method, shares=shares, ranking=ranking, mixed=mixed, folds=folds
    )


def _allowed(
    methods: Mapping[str, TransferMethod], ranking: Mapping[str, Scores], unlike: Collection[str]
) -> list[str]:
    """Return the methods that may be mixed: an unlike source must help clearly."""
    bound = _CLEARLY * min(ranking[name].mape for name in SCRATCHES)
    return [
        name for name, method in methods.items() if ranking[name].mape < bound or not set(method.sources) & set(unlike)
    ]


def _own(features: Features, sources: Sequence[str]) -> Features:
    """Return the features without the predictions of the sources."""
    own = [name for name in features.shape_names if name not in set(map(source_column, sources))]
    return replace(features, shape_names=tuple(own), shapes=features.shapes_by(own))


def transfer_methods(sources: Sequence[str], *, unlike: Collection[str] = ()) -> dict[str, TransferMethod]:
    """Return the methods to make a model from a few measurements, by name."""
    methods = {name: _scratch(learner, sources) for name, learner in zip(SCRATCHES, SIMPLE, strict=True)}
    for source in sources:
        methods[f"{source} scaled"] = _scaled(source)
        methods[f"{source} bent"] = _basis((source,))
    alike = tuple(source for source in sources if source not in unlike)
    if len(alike) > 1:
        methods["basis"] = _basis(alike)
    if len(sources) > max(len(alike), 1):
        methods["basis of all"] = _basis(tuple(sources))
    return methods


def _scratch(learner: Learner, sources: Sequence[str]) -> TransferMethod:
    """Fit a model without the predictions of the sources."""

    def fit(features: Features, target: Numbers) -> Fitted:
        return learner.fit(_own(features, sources), target)

    return TransferMethod(sources=(), fit=fit)


def _scaled(source: str) -> TransferMethod:
    """Multiply a source by the median ratio of measured to predicted."""

    def fit(features: Features, target: Numbers) -> Fitted:
        logs = source_logs((source,), features)
        # The median: one outlier among a few networks would move a mean.
        offset = float(np.median(np.log(target) - logs[:, 0]))
        return Scaled(sources=(source,), weights=np.ones(1), centres=np.zeros(1), offset=offset)

    return TransferMethod(sources=(source,), fit=fit)


def _basis(sources: tuple[str, ...]) -> TransferMethod:
    """Fit a robust Bayesian ridge on the main common directions of the sources' logarithms.

    The prior is the geometric mean of the sources times a factor: weights 1/n each, projected on the directions.
    """

    def fit(features: Features, target: Numbers) -> Fitted:
        # log target = offset + (logs - centres) @ directions @ weights: few weights for many correlated sources.
        logs = source_logs(sources, features)
        centres = logs.mean(axis=0)
        directions = _directions(logs - centres)
        coordinates = (logs - centres) @ directions
        prior = np.linalg.pinv(directions) @ np.full(len(sources), 1 / len(sources))
        offset, weights = _bayesian(coordinates, np.log(target), prior=prior)
        return Scaled(sources=sources, weights=directions @ weights, centres=centres, offset=offset)

    return TransferMethod(sources=sources, fit=fit)


def _directions(centred: Numbers) -> Numbers:
    """Return the main common directions as columns of length 1."""
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    # Directions with hardly any spread are noise; ten networks cannot support more than a few.
    kept = np.flatnonzero(spread > 1e-3 * max(float(spread[0]), 1e-12))[:_RANK]
    main: Numbers = directions[kept].T
    return main


def _bayesian(coordinates: Numbers, logs: Numbers, *, prior: Numbers) -> tuple[float, Numbers]:
    """Return the offset and weights of a robust Bayesian linear regression."""
    # Iteratively reweighted least squares with Cauchy weights 1 / (1 + (r / 2s)^2), where s is the scaled median
    # absolute residual. The weights have the prior N(prior, 0.3^2), which makes the penalty s^2 / 0.3^2.
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


def _left_out(method: TransferMethod, features: Features, target: Numbers, folds: Sequence[Fold]) -> Numbers:
    predicted = np.zeros(len(target))
    for fold in folds:
        fitted = method.fit(features.take(fold.fit), target[fold.fit])
        predicted[fold.held_out] = fitted.predict(features.take(fold.held_out))
    return predicted
