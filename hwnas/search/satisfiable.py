"""Whether any network meets the cheap constraints, found out before anything dear is evaluated."""

from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.search.engine import Nsga2
from hwnas.search.objective import Constraint, Metrics, joined
from hwnas.search.operators import Variation, derived_seed, generator, sample_levels
from hwnas.search.problem import Cheap, Problem, Scores, require_metrics
from hwnas.search.region import whole
from hwnas.search.seen import Seen, unseen
from hwnas.space.space import Genomes

_SAMPLE = 2000
_POPULATION = 100
_GENERATIONS = 30


@dataclass(frozen=True, kw_only=True)
class Satisfiable:
    """The answer, and the sentence that says why."""

    holds: bool
    reason: str

    def __str__(self) -> str:
        return f"satisfiable: {'yes' if self.holds else 'no'}, {self.reason}"


def check_satisfiable(problem: Problem, cheap: Cheap, *, seed: int = 0) -> Satisfiable:
    """Look for a network that meets all cheap constraints: the extremes, a sample, then a search for less violation.

    A yes is proven by a network; a no is the best that was found. Constraints on the dear metric are not looked at.
    """
    constraints = problem.cheap_constraints
    if not constraints:
        return Satisfiable(holds=True, reason="there is no constraint that can be checked without the supernet")
    extremes = _extremes(problem)
    sample = sample_levels(whole(problem.space), generator(seed, "satisfiable"), _SAMPLE)
    metrics = cheap(np.concatenate([extremes, sample]))
    require_metrics(metrics, [str(constraint.metric) for constraint in constraints])
    share = float(problem.admits(metrics)[len(extremes) :].mean())
    if problem.admits(metrics).any():
        return Satisfiable(holds=True, reason=f"{share:.1%} of {_SAMPLE:,} sampled networks meet the constraints")
    metrics = joined([metrics, _least_violation(problem, cheap, sample, seed=seed)])
    if problem.admits(metrics).any():
        return Satisfiable(holds=True, reason=f"but none of {_SAMPLE:,} sampled networks meets the constraints")
    return Satisfiable(holds=False, reason=_reason(problem, metrics))


def require_satisfiable(problem: Problem, cheap: Cheap, *, seed: int = 0) -> Satisfiable:
    """An infeasible problem is an error that says what the space has at best."""
    answer = check_satisfiable(problem, cheap, seed=seed)
    if not answer.holds:
        constraints = ", ".join(str(constraint) for constraint in problem.cheap_constraints)
        raise InputError(str(answer), got=constraints, hint="a looser constraint")
    return answer


def _extremes(problem: Problem) -> Genomes:
    space = problem.space
    return space.encode([space.smallest(), space.largest()])


def _least_violation(problem: Problem, cheap: Cheap, sample: Genomes, *, seed: int) -> Metrics:
    """What a search that only lessens violations comes across."""
    region, seen = whole(problem.space), Seen()
    constraints = problem.cheap_constraints
    engine = Nsga2(
        region=region,
        initial=unseen(lambda count: sample[:count], _POPULATION, seen=seen, region=region),
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
        engine.tell(Scores(np.zeros((len(genomes), 1)), problem.violations(parts[-1], constraints)))
        if problem.admits(parts[-1]).any():
            break
    return joined(parts)


def _reason(problem: Problem, metrics: Metrics) -> str:
    """The constraint that nothing meets, or that all of them together are too much."""
    for constraint in problem.cheap_constraints:
        best, who = _best(problem, constraint, metrics)
        if constraint.violation(metrics[str(constraint.metric)], confident=problem.confident).min() > 0:
            return f"{who} has {constraint.metric} {best:.6g}"
    return "each constraint can be met, but no network was found that meets all of them"


def _best(problem: Problem, constraint: Constraint, metrics: Metrics) -> tuple[float, str]:
    estimate = metrics[str(constraint.metric)]
    lower = constraint.sense == "<="
    values = (estimate.upper if lower else estimate.lower) if problem.confident else estimate.mean
    row = int(np.nanargmin(values) if lower else np.nanargmax(values))
    # The first two rows are the smallest and the largest network.
    return float(values[row]), ("the smallest network", "the largest network")[row] if row < 2 else "the best one found"
