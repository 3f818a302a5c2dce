"""Check that some network meets the cheap constraints, before anything expensive is evaluated."""

from dataclasses import dataclass, replace

import numpy as np

from hwnas.errors import InputError
from hwnas.search.engine import Nsga2
from hwnas.search.genome_set import GenomeSet, sample_unseen
from hwnas.search.objective import Metrics, concatenated
from hwnas.search.operators import Variation, derived_seed, generator, sample_levels
from hwnas.search.problem import CheapEvaluator, PopulationScores, Problem, require_metrics
from hwnas.search.region import full_region
from hwnas.space.space import Genomes

_SAMPLE = 2000
_POPULATION = 100
_GENERATIONS = 30


@dataclass(frozen=True, kw_only=True)
class ConstraintCheck:
    """Result of checking that the constraints can be met, with a sentence about it."""

    satisfiable: bool
    text: str
    looser: str | None = None
    """A constraint with a bound that a network meets, if one alone cannot be met."""

    def __str__(self) -> str:
        return self.text


def check_constraints(problem: Problem, cheap: CheapEvaluator, *, seed: int = 0) -> ConstraintCheck:
    """Look for a network that meets all cheap constraints, in the extremes, a sample, then by minimising violations.

    A yes is proven by a network; a no states the best that was found. Constraints on the expensive metric are ignored.

    Args:
        problem: The space and the constraints.
        cheap: Evaluates the constrained metrics.
        seed: Seed of the sample.
    """
    constraints = problem.cheap_constraints
    if not constraints:
        return ConstraintCheck(satisfiable=True, text="no constraints that can be checked before the search")
    extremes = problem.space.encode([problem.space.smallest(), problem.space.largest()])
    sample = sample_levels(full_region(problem.space), generator(seed, "satisfiable"), _SAMPLE)
    metrics = cheap(np.concatenate([extremes, sample]))
    require_metrics(metrics, [str(constraint.metric) for constraint in constraints])
    admitted = problem.admits(metrics)
    if admitted.any():
        share = float(admitted[len(extremes) :].mean())
        text = f"constraints can be met: {share:.1%} of {_SAMPLE:,} sampled networks do"
        return ConstraintCheck(satisfiable=True, text=text)
    metrics = concatenated([metrics, _least_violating(problem, cheap, sample, seed=seed)])
    if problem.admits(metrics).any():
        text = f"constraints can be met, but none of {_SAMPLE:,} sampled networks does"
        return ConstraintCheck(satisfiable=True, text=text)
    reason, looser = _reason(problem, metrics)
    return ConstraintCheck(satisfiable=False, text=f"constraints cannot be met: {reason}", looser=looser)


def require_satisfiable(problem: Problem, cheap: CheapEvaluator, *, seed: int = 0) -> ConstraintCheck:
    """Do the same, with an error where no network was found.

    Raises:
        InputError: No network meets the constraints; the message states the best value that the space has.
    """
    found = check_constraints(problem, cheap, seed=seed)
    if not found.satisfiable:
        constraints = ", ".join(str(constraint) for constraint in problem.cheap_constraints)
        hint = "a looser constraint" if found.looser is None else f"--constraint '{found.looser}'"
        raise InputError(str(found), got=constraints, hint=hint)
    return found


def _least_violating(problem: Problem, cheap: CheapEvaluator, sample: Genomes, *, seed: int) -> Metrics:
    """Return the metrics of all networks that NSGA-II meets while it minimises only violations."""
    region, seen = full_region(problem.space), GenomeSet()
    engine = Nsga2(
        region=region,
        initial=sample_unseen(lambda count: sample[:count], _POPULATION, seen=seen, region=region),
        variation=Variation(),
        seen=seen,
        population=_POPULATION,
        seed=derived_seed(seed, "satisfiable"),
    )
    parts = []
    for _ in range(_GENERATIONS):
        if not len(genomes := engine.ask()):
            break
        parts.append(cheap(genomes))
        violations = problem.violations(parts[-1], problem.cheap_constraints)
        engine.tell(PopulationScores(np.zeros((len(genomes), 1)), violations))
        if problem.admits(parts[-1]).any():
            break
    return concatenated(parts)


def _reason(problem: Problem, metrics: Metrics) -> tuple[str, str | None]:
    """Name the constraint that no network meets, with a looser one, or say that no network meets all of them."""
    for constraint in problem.cheap_constraints:
        estimate = metrics[str(constraint.metric)]
        if constraint.violation(estimate, confident=problem.confident).min() > 0:
            values = constraint.compared(estimate, confident=problem.confident)
            row = int(np.nanargmin(values) if constraint.sense == "<=" else np.nanargmax(values))
            # The first two rows are the extremes.
            which = ("the smallest network", "the largest network")[row] if row < 2 else "the best network found"
            value = float(values[row])
            looser = constraint.loosened(value)
            if len({metric for metric in problem.criteria.metrics if metric.name == constraint.metric.name}) > 1:
                looser = replace(looser, metric=constraint.metric)
            return f"{which} has {constraint.metric} {constraint.metric.shown(value)}", str(looser)
    return "each constraint can be met, but no network was found that meets all of them", None
