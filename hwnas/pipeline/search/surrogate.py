"""The surrogate of accuracy: learners of `hwnas.predict` on the genes and costs of networks.

The learners are a Gaussian process and boosted trees, each fitted once for each fold with that fold left out, so that
every network is also predicted by a model that was not fitted to it. The learner with the lower error on left-out
networks, or the mean of both if that is lower still, is the surrogate. Its mean is that of its models; the width of its
interval combines their disagreement and their error on left-out networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.arrays import round_last_bits
from hwnas.predict.models import BoostedLearner, GaussianLearner
from hwnas.predict.models.model import Standardizer
from hwnas.predict.models.residual import Correction, Corrector
from hwnas.search.objective import Estimate
from hwnas.search.problem import FitSurrogate, Surrogate
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace, Genomes

Values = NDArray[np.float64]

FOLDS = 4
"""Parts into which the networks are divided."""

_WIDTH = 1.64
"""Standard deviations on either side of the mean: 90 % of a normal distribution."""

_LEARNERS: tuple[Corrector, ...] = (
    GaussianLearner(num_inputs=10, points=200),
    BoostedLearner(rounds=150, depth=3, rate=0.08),
)

_MIN_NETWORKS = 12
"""The fewest networks to divide into folds; below it, one Gaussian process is fitted to all."""


@dataclass(frozen=True)
class _Ensemble:
    """The models of one learner, each fitted without one fold."""

    models: tuple[Correction, ...]
    held_out: Values
    """The prediction for each network by the model that was not fitted to it."""

    def predict(self, inputs: Values) -> tuple[Values, Values]:
        """Return mean and standard deviation of the models."""
        answers = np.stack([model.correct(inputs) for model in self.models])
        return answers.mean(axis=0), answers.std(axis=0)


def accuracy_surrogate(space: AnySpace, *, shared_by: DeployedSpace | None = None) -> FitSurrogate:
    """Return a function that fits a surrogate of accuracy to networks of a space.

    Args:
        space: The space that is searched.
        shared_by: The space, if networks have one accuracy in several of its deployments.
    """
    describe = _make_features(space, shared_by)

    def fit(genomes: Genomes, values: Values, seed: int) -> Surrogate:
        if shared_by is not None:
            # Each network once: with copies of it in another fold, the error on left-out networks would be too low.
            _, first = np.unique(shared_by.accuracy_representatives(genomes), axis=0, return_index=True)
            genomes, values = genomes[np.sort(first)], values[np.sort(first)]
        raw = describe(genomes)
        standard = Standardizer.fit(raw)
        inputs = standard.apply(raw)
        ensembles, sigma = _fitted(inputs, values, seed=seed % 2**31)

        def surrogate(others: Genomes) -> Estimate:
            x = standard.apply(describe(others))
            means, spreads = zip(*(ensemble.predict(x) for ensemble in ensembles), strict=True)
            mean = np.mean(means, axis=0)
            width = _WIDTH * np.sqrt(sigma**2 + np.mean(spreads, axis=0) ** 2)
            return Estimate(*map(round_last_bits, (mean, mean - width, mean + width)))

        return surrogate

    return fit


def _fitted(inputs: Values, values: Values, *, seed: int) -> tuple[Sequence[_Ensemble], float]:
    """Return the ensembles with the lowest error on left-out networks, and that error."""
    if len(values) < _MIN_NETWORKS:
        model = _LEARNERS[0].learn(inputs, values, weights=np.ones(len(values)), seed=seed)
        return [_Ensemble((model,), values)], float(values.std())
    ensembles = [_fit_ensemble(learner, inputs, values, seed=seed) for learner in _LEARNERS]
    choices = [*([ensemble] for ensemble in ensembles), ensembles]
    means = [np.mean([ensemble.held_out for ensemble in choice], axis=0) for choice in choices]
    errors = [float(np.sqrt(np.mean((mean - values) ** 2))) for mean in means]
    best = int(np.argmin(errors))
    return choices[best], errors[best]


def _fit_ensemble(learner: Corrector, inputs: Values, values: Values, *, seed: int) -> _Ensemble:
    folds = np.random.default_rng(seed).permutation(len(values)) % FOLDS
    held_out = np.zeros(len(values))
    models = []
    for fold in range(FOLDS):
        seen = folds != fold
        model = learner.learn(inputs[seen], values[seen], weights=np.ones(int(seen.sum())), seed=seed)
        held_out[~seen] = model.correct(inputs[~seen])
        models.append(model)
    return _Ensemble(tuple(models), held_out)


def _make_features(space: AnySpace, shared_by: DeployedSpace | None) -> Callable[[Genomes], Values]:
    """Return a function from genomes to features: costs, genes, and sums over the genes of each name."""
    names = tuple(dict.fromkeys(dimension.name for dimension in space.dimensions))
    labels = np.array([names.index(dimension.name) for dimension in space.dimensions])
    tops = np.array([max(len(dimension.choices) - 1, 1) for dimension in space.dimensions], dtype=np.float64)
    categorical = [
        (column, choice)
        for column, dimension in enumerate(space.dimensions)
        if dimension.kind != "ordinal"
        for choice in range(1, len(dimension.choices))
    ]

    def describe(genomes: Genomes) -> Values:
        genomes = genomes if shared_by is None else shared_by.accuracy_representatives(genomes)
        costs, used = space.costs(genomes), space.used(genomes)
        # An unused gene is half a step below the smallest choice of a used one, so that models can tell them apart.
        genes = np.where(used, genomes / tops, -0.5 / tops)
        sums = [np.where(used, genes, 0.0)[:, labels == label].sum(axis=1) for label in range(len(names))]
        chosen = [used[:, column] & (genomes[:, column] == choice) for column, choice in categorical]
        columns = [np.log(costs.macs), np.log(costs.params), *sums, *genes.T, *chosen]
        return np.column_stack(columns).astype(np.float64)

    return describe
