"""What a model believes about accuracy: learners of `predict` on the genes of networks and what they cost.

The learners are a Gaussian process and boosted trees, each fitted without one fold of the networks after the other, so
that every network is also predicted by a model that has not seen it. The better one of the two there, or their mean, is
the surrogate: its mean is that of its folds, its interval as wide as the folds disagree and as they erred.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.arrays import shortened
from hwnas.predict.models import BoostedLearner, GaussianLearner
from hwnas.predict.models.model import Standard
from hwnas.predict.models.residual import Correction, Corrector
from hwnas.search.objective import Estimate
from hwnas.search.problem import FitSurrogate, Surrogate
from hwnas.space.space import AnySpace, Genomes

Values = NDArray[np.float64]

FOLDS = 4
_WIDTH = 1.64
"""Standard deviations on either side of the mean: 90 % of a normal distribution."""
_LEARNERS: tuple[Corrector, ...] = (
    GaussianLearner(num_inputs=10, points=200),
    BoostedLearner(rounds=150, depth=3, rate=0.08),
)
_FEWEST = 12
"""With fewer networks there are not enough for folds: one Gaussian process says it all."""


@dataclass(frozen=True)
class _Ensemble:
    """The models of one learner, a fold left out of each, and the errors on what was left out."""

    models: tuple[Correction, ...]
    held_out: Values
    """What is predicted of each network by the models that have not seen it."""

    def predict(self, inputs: Values) -> tuple[Values, Values]:
        """Mean and disagreement of the models."""
        answers = np.stack([model.correct(inputs) for model in self.models])
        return answers.mean(axis=0), answers.std(axis=0)


def accuracy_surrogate(space: AnySpace) -> FitSurrogate:
    """What fits a surrogate of the accuracy of a space's networks."""
    describe = _description(space)

    def fit(genomes: Genomes, values: Values, seed: int) -> Surrogate:
        raw = describe(genomes)
        standard = Standard.of(raw)
        inputs = standard.apply(raw)
        ensembles, sigma = _fitted(inputs, values, seed=seed % 2**31)

        def surrogate(others: Genomes) -> Estimate:
            x = standard.apply(describe(others))
            means, spreads = zip(*(ensemble.predict(x) for ensemble in ensembles), strict=True)
            mean = np.mean(means, axis=0)
            width = _WIDTH * np.sqrt(sigma**2 + np.mean(spreads, axis=0) ** 2)
            return Estimate(*map(shortened, (mean, mean - width, mean + width)))

        return surrogate

    return fit


def _fitted(inputs: Values, values: Values, *, seed: int) -> tuple[Sequence[_Ensemble], float]:
    """The ensembles that answer best on networks that they were not fitted to, and how far they err there."""
    if len(values) < _FEWEST:
        model = _LEARNERS[0].learn(inputs, values, weights=np.ones(len(values)), seed=seed)
        return [_Ensemble((model,), values)], float(values.std())
    each = [_ensemble(learner, inputs, values, seed=seed) for learner in _LEARNERS]
    choices = [*([ensemble] for ensemble in each), each]
    errors = [float(np.sqrt(np.mean((_mean_of(choice) - values) ** 2))) for choice in choices]
    best = int(np.argmin(errors))
    return choices[best], errors[best]


def _ensemble(learner: Corrector, inputs: Values, values: Values, *, seed: int) -> _Ensemble:
    folds = np.random.default_rng(seed).permutation(len(values)) % FOLDS
    held_out = np.zeros(len(values))
    models = []
    for fold in range(FOLDS):
        seen = folds != fold
        model = learner.learn(inputs[seen], values[seen], weights=np.ones(int(seen.sum())), seed=seed)
        held_out[~seen] = model.correct(inputs[~seen])
        models.append(model)
    return _Ensemble(tuple(models), held_out)


def _mean_of(ensembles: Sequence[_Ensemble]) -> Values:
    mean: Values = np.mean([ensemble.held_out for ensemble in ensembles], axis=0)
    return mean


def _description(space: AnySpace) -> Callable[[Genomes], Values]:
    """Columns that say what a network is: its costs, its genes, and sums over the genes of one name."""
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
        costs, used = space.costs(genomes), space.used(genomes)
        # A gene that is not used is half a step below the least one that is.
        genes = np.where(used, genomes / tops, -0.5 / tops)
        sums = [np.where(used, genes, 0.0)[:, labels == label].sum(axis=1) for label in range(len(names))]
        chosen = [used[:, column] & (genomes[:, column] == choice) for column, choice in categorical]
        columns = [np.log(costs.macs), np.log(costs.params), *sums, *genes.T, *chosen]
        return np.column_stack(columns).astype(np.float64)

    return describe
