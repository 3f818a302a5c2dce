"""A made-up accuracy, predictor and surrogate for any space, all of them cheap and deterministic."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.search.objective import Estimate, Metrics, exact, make_objectives, parse_constraint
from hwnas.search.problem import Evaluators, Problem, Surrogate
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Genomes

MICROS = tuple(space for space in SPACES.values() if space.name.endswith("-micro"))
LATENCY = "latency_ms@cpu"

Values = NDArray[np.float64]


def problem(space: AnySpace, *constraints: str, objectives: tuple[str, ...] = (LATENCY,), **options: Any) -> Problem:
    return Problem(
        space=space,
        objectives=make_objectives(objectives),
        constraints=tuple(parse_constraint(text) for text in constraints),
        **options,
    )


def cheap_only(space: AnySpace, *constraints: str, **options: Any) -> Problem:
    """MACs against latency against params."""
    return Problem(
        space=space,
        objectives=make_objectives([LATENCY, "params"], accuracy=False),
        constraints=tuple(parse_constraint(text) for text in constraints),
        **options,
    )


def cheap(space: AnySpace) -> Callable[[Genomes], Metrics]:
    def metrics(genomes: Genomes) -> Metrics:
        costs = space.costs(genomes)
        latency = costs.macs**0.8 * 1e-5 * (1 + 0.1 * np.sin(genomes.sum(axis=1)))
        return {
            "macs": exact(costs.macs),
            "params": exact(costs.params),
            LATENCY: Estimate(latency, 0.9 * latency, 1.1 * latency),
        }

    return metrics


def accuracy(space: AnySpace, genomes: Genomes) -> Values:
    """Grows with the number of parameters, and with the fit to hidden wishes."""
    wishes = np.random.default_rng(5).normal(size=len(space.dimensions))
    # A sum and no product of matrices, whose last bits would depend on the other rows.
    fit_to_wishes = (genomes * wishes).sum(axis=1)
    values: Values = 0.04 * np.log(space.costs(genomes).params) + 0.05 * np.tanh(fit_to_wishes / 5)
    return values


class Truth:
    """The accuracy as an expensive evaluator that remembers every network it evaluated."""

    def __init__(self, space: AnySpace, *, fails: int = 0) -> None:
        self.space, self.fails = space, fails
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, genomes: Genomes) -> Iterator[tuple[int, float]]:
        values = accuracy(self.space, genomes)
        # In reverse: an evaluator may finish them in any order.
        for row in reversed(range(len(genomes))):
            self.asked.append(tuple(genomes[row].tolist()))
            failed = self.fails and len(self.asked) % self.fails == 0
            yield row, float("nan") if failed else float(values[row])


def fit(space: AnySpace) -> Callable[[Genomes, Values, int], Surrogate]:
    """A ridge regression on genes, their squares and the logarithm of the parameters."""

    def features(genomes: Genomes) -> Values:
        x = genomes.astype(np.float64)
        return np.column_stack([np.ones(len(x)), x, x**2, np.log(space.costs(genomes).params)])

    def fitted(genomes: Genomes, values: Values, seed: int) -> Surrogate:
        x = features(genomes)
        weights = np.linalg.solve(x.T @ x + 1e-2 * np.eye(x.shape[1]), x.T @ values)
        width = 2 * float(np.std(x @ weights - values)) + 1e-4

        def surrogate(others: Genomes) -> Estimate:
            mean = features(others) @ weights
            return Estimate(mean, mean - width, mean + width)

        return surrogate

    return fitted


def evaluators(space: AnySpace, truth: Truth | None = None) -> Evaluators:
    return Evaluators(cheap=cheap(space), expensive=truth or Truth(space), fit=fit(space))


def rows_as_set(genomes: Genomes) -> set[tuple[int, ...]]:
    return {tuple(row) for row in genomes.tolist()}
