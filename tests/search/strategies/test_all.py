"""What holds for every strategy, on a micro space of every family."""

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search.ledger import Budget
from hwnas.search.objective import exact
from hwnas.search.pareto import hypervolume, on_front
from hwnas.search.problem import Evaluators, Surrogate
from hwnas.search.run import SearchOutcome, run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.rounds import RoundsSearch
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Genomes
from tests.search.toys import (
    LATENCY,
    MICROS,
    Truth,
    Values,
    accuracy,
    cheap,
    cheap_only,
    evaluators,
    problem,
    rows_as_set,
)
from tests.strategies import TINY, space_id

BUDGET = Budget(evaluations=60)
LEVELS = ("glit", "hierarchical")
FAST = {"rounds": RoundsSearch(initial=12, batch=8, population=24, generations=6)}


def strategies(space: AnySpace) -> list[str]:
    return [name for name in STRATEGIES if space.family == "glit" or name not in LEVELS]


CASES = [pytest.param(space, name, id=f"{space.name}-{name}") for space in MICROS for name in strategies(space)]


def run(space: AnySpace, name: str, *constraints: str, truth: Truth | None = None, seed: int = 0) -> SearchOutcome:
    strategy = FAST.get(name) or STRATEGIES.get(name)()
    return run_search(
        problem(space, *constraints), evaluators(space, truth), strategy=strategy, budget=BUDGET, seed=seed
    )


@pytest.mark.parametrize(("space", "name"), CASES)
def test_a_search_ends_with_its_budget_and_a_front(space: AnySpace, name: str) -> None:
    truth = Truth(space)
    outcome = run(space, name, truth=truth)
    found = outcome.candidates
    assert 30 < outcome.evaluations == len(truth.asked) <= 60
    assert outcome.stop in ("evaluations", "exhausted")
    assert len(set(truth.asked)) == len(truth.asked)
    assert len(rows_as_set(found.genomes)) == len(found.genomes)
    assert (space.canonical(found.genomes) == found.genomes).all()
    done = found.evaluated
    assert found.metrics["accuracy"].mean[done].tolist() == accuracy(space, found.genomes[done]).tolist()
    assert (outcome.front == on_front(found.scores.objectives, feasible=done)).all()
    assert outcome.history[-1][1] == pytest.approx(hypervolume(found.scores.objectives, outcome.bounds))
    assert [value for _, value in outcome.history] == sorted(value for _, value in outcome.history)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_seed_says_everything(name: str) -> None:
    space = SPACES.get("glit-micro")
    first, again, other = (run(space, name, seed=seed) for seed in (1, 1, 2))
    assert (first.candidates.genomes == again.candidates.genomes).all()
    assert rows_as_set(first.candidates.genomes) != rows_as_set(other.candidates.genomes)


@pytest.mark.parametrize("name", STRATEGIES)
def test_constraints_hold_on_the_front(name: str) -> None:
    space = SPACES.get("glit-micro")
    sample = space.sample(np.random.default_rng(0), 200)
    bound = float(np.median(space.costs(sample).macs))
    latency = float(np.quantile(cheap(space)(sample)[LATENCY].mean, 0.6))
    truth = Truth(space)
    outcome = run(space, name, f"macs<={bound}", f"{LATENCY}<={latency}", truth=truth)
    asked = cheap(space)(np.array(truth.asked, dtype=np.int16))
    assert outcome.evaluations > 20
    # No expensive evaluation is spent on what cheap constraints rule out.
    assert (asked["macs"].mean <= bound).all()
    assert (asked[LATENCY].mean <= latency).all()
    assert outcome.front.any()


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in LEVELS])
def test_a_tiny_space_is_exhausted_and_the_search_ends(name: str) -> None:
    space = next(space for space in TINY if space.name == "tiny-autoformer-plain")
    outcome = run_search(
        problem(space),
        evaluators(space),
        strategy=FAST.get(name) or STRATEGIES.get(name)(),
        budget=Budget(evaluations=10 * space.size),
    )
    assert outcome.stop == "exhausted"
    if name in ("nsga2", "rounds", "random"):
        assert outcome.evaluations == space.size


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "rounds"])
def test_values_that_cannot_be_had_do_no_harm(name: str) -> None:
    space = SPACES.get("glit-micro")
    outcome = run(space, name, truth=Truth(space, fails=4))
    assert outcome.front.any()
    assert np.isfinite(outcome.candidates.metrics["accuracy"].mean[outcome.front]).all()


def test_rounds_learn_from_what_could_be_had() -> None:
    space = SPACES.get("glit-micro")
    outcome = run(space, "rounds", truth=Truth(space, fails=4))
    assert outcome.evaluations == 60
    assert np.isfinite(outcome.candidates.metrics["accuracy"].mean[outcome.front]).all()


@pytest.mark.parametrize("name", ["nsga2", "random", "autoformer"])
def test_cheap_metrics_alone_are_searched(name: str) -> None:
    space = SPACES.get("autoformer-micro")
    outcome = run_search(
        cheap_only(space), Evaluators(cheap=cheap(space)), strategy=STRATEGIES.get(name)(), budget=BUDGET
    )
    assert outcome.evaluations == len(outcome.candidates.genomes) == 60


def test_rounds_need_an_expensive_metric() -> None:
    space = SPACES.get("autoformer-micro")
    with pytest.raises(InputError, match="rounds need accuracy among objectives or constraints"):
        run_search(cheap_only(space), Evaluators(cheap=cheap(space)), strategy=RoundsSearch(), budget=BUDGET)


@pytest.mark.parametrize("space", [MICROS[0], MICROS[-1]], ids=space_id)
def test_rounds_beat_nsga2_and_that_beats_random(space: AnySpace) -> None:
    names = ("rounds", "nsga2", "random")
    means = [np.mean([run(space, name, seed=seed).history[-1][1] for seed in range(2)]) for name in names]
    assert means == sorted(means, reverse=True)


def test_networks_are_scored_within_the_interval_of_the_surrogate() -> None:
    # Whatever the truth is, what the surrogate promises is evaluated.
    space = SPACES.get("autoformer-micro")
    best = space.repair([[1, 1, 2, 1, 0, 0, 1, 1, 0, 0]])

    def fit(genomes: Genomes, values: Values, seed: int) -> Surrogate:
        return lambda rows: exact(0.99 - 0.02 * np.abs(rows - best).sum(axis=1))

    truth = Truth(space)
    evaluate = Evaluators(cheap=cheap(space), expensive=truth, fit=fit)
    strategy = RoundsSearch(initial=10, batch=2, population=40, generations=30, pool=1)
    run_search(problem(space), evaluate, strategy=strategy, budget=Budget(evaluations=12), seed=1)
    distances = np.abs(np.array(truth.asked) - best).sum(axis=1)
    assert distances[10:].min() <= 2 < distances[:10].min()
