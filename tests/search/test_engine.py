import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.core.population import Population as PymooPopulation
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

from hwnas.search.engine import Nsga2, Population, survivors
from hwnas.search.genome_set import GenomeSet
from hwnas.search.operators import Variation, sample_levels
from hwnas.search.pareto import HypervolumeBounds, hypervolume
from hwnas.search.problem import PopulationScores
from hwnas.search.region import full_region
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from tests.search.toys import rows_as_set
from tests.strategies import TINY, all_genomes

SPACE = SPACES.get("autoformer-micro")


def engine(space: AnySpace, *, population: int = 20, seed: int = 0) -> Nsga2:
    region, seen = full_region(space), GenomeSet()
    initial = sample_levels(region, np.random.default_rng(seed), 2 * population)
    return Nsga2(
        region=region,
        initial=initial[seen.is_new(initial)][:population],
        variation=Variation(),
        seen=seen,
        population=population,
        seed=seed,
    )


def two_costs(space: AnySpace, genomes: NDArray[np.int16]) -> NDArray[np.float64]:
    costs = space.costs(genomes)
    return np.stack([costs.macs / 1e6, -costs.params / 1e3], axis=1).astype(np.float64)


def evolve(space: AnySpace, generations: int, *, seed: int = 0) -> NDArray[np.int16]:
    nsga2, parts = engine(space, seed=seed), []
    for _ in range(generations):
        parts.append(nsga2.ask())
        nsga2.tell(PopulationScores(two_costs(space, parts[-1]), np.zeros((len(parts[-1]), 0))))
    return np.concatenate(parts)


def test_nothing_is_asked_for_twice_and_a_seed_says_everything() -> None:
    state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    asked = evolve(SPACE, 15, seed=3)
    assert len(rows_as_set(asked)) == len(asked)
    assert (evolve(SPACE, 15, seed=3) == asked).all()
    assert (evolve(SPACE, 15, seed=4)[: len(asked)] != asked[: len(evolve(SPACE, 15, seed=4))]).any()
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]  # noqa: NPY002


def test_it_asks_for_all_of_a_small_space_and_ends() -> None:
    space = next(space for space in TINY if space.name == "tiny-autoformer")
    everything = all_genomes(space)
    everything = space.canonical(everything[space.contains(everything)])
    nsga2, asked = engine(space), []
    while len(genomes := nsga2.ask()):
        asked.append(genomes)
        nsga2.tell(PopulationScores(two_costs(space, genomes), np.zeros((len(genomes), 0))))
    found = np.concatenate(asked)
    assert rows_as_set(found) == rows_as_set(everything)
    assert len(found) == space.size


def test_less_violation_wins_then_rank() -> None:
    nsga2 = engine(SPACE, population=6)
    genomes = nsga2.ask()
    objectives = np.array([[0.0, 0.0], [9.0, 9.0], [5.0, 5.0], [1.0, 1.0], [2.0, 2.0], [np.nan, 0.0]])
    violations = np.array([[0.5], [0.0], [-1.0], [0.1], [0.2], [0.0]])
    nsga2.tell(PopulationScores(objectives[: len(genomes)], violations[: len(genomes)]))
    # All six are kept; a worse second generation pushes out none but those that violate most.
    later = nsga2.ask()
    nsga2.tell(PopulationScores(np.full((len(later), 2), 10.0), np.full((len(later), 1), 0.15)))
    kept = rows_as_set(nsga2.population)
    assert {tuple(genomes[row].tolist()) for row in (1, 2, 3)} <= kept
    assert not {tuple(genomes[row].tolist()) for row in (0, 4, 5)} & kept


@pytest.mark.parametrize("seed", range(3))
def test_it_beats_random_search(seed: int) -> None:
    asked = evolve(SPACE, 20, seed=seed)
    sample = SPACE.sample(np.random.default_rng(seed), len(asked))
    ours, drawn = two_costs(SPACE, asked), two_costs(SPACE, sample)
    both = np.concatenate([ours, drawn])
    low, high = both.min(axis=0).tolist(), both.max(axis=0).tolist()
    bounds = HypervolumeBounds(ideal=tuple(low), reference=tuple(high))
    assert hypervolume(ours, bounds) > hypervolume(drawn, bounds)


@pytest.mark.parametrize("seed", range(3))
def test_of_equally_crowded_ones_those_survive_whom_the_seed_draws(seed: int) -> None:
    """And on every CPU the same ones: numpy's own quicksort is one algorithm with AVX-512 and another one without."""
    front = np.tile([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0], [3.0, 0.0]], (50, 1))
    objectives = np.random.default_rng(0).permutation(front)
    nothing = np.zeros(200)
    population = Population(np.arange(200, dtype=np.int16)[:, None], objectives, nothing, nothing, nothing.copy())
    kept = survivors(population, 100, np.random.default_rng(seed)).genomes[:, 0]
    crowding = get_crowding_function("cd").do(objectives, n_remove=100)
    last_first = np.random.default_rng(seed).permutation(200).tolist()[::-1]
    order = sorted(last_first, key=lambda row: -float(crowding[row]))
    assert kept.tolist() == order[:100]


@pytest.mark.parametrize("seed", range(6))
def test_those_survive_who_survive_in_pymoo(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # its own draws among equals by numpy's quicksort, which orders them otherwise on every kind of CPU
    monkeypatch.setattr("pymoo.operators.survival.rank_and_crowding.classes.randomized_argsort", _randomized_argsort)
    rng = np.random.default_rng(seed)
    objectives = rng.integers(0, 6, size=(60, 3)).astype(np.float64)
    violations = np.maximum(rng.normal(-1.0 if seed % 2 else 0.5, 1.0, size=(60, 2)), 0.0)
    genomes = np.arange(60, dtype=np.int16)[:, None]
    population = Population(genomes, objectives, violations.mean(axis=1), np.zeros(60), np.zeros(60))
    ours = survivors(population, 25, np.random.default_rng(seed))
    theirs = RankAndCrowding().do(
        Problem(n_var=1, n_obj=3, n_ieq_constr=2),
        PymooPopulation.new("X", genomes, "F", objectives, "G", violations),
        n_survive=25,
        random_state=np.random.default_rng(seed),
    )
    assert ours.genomes.tolist() == theirs.get("X").tolist()
    able = ours.violation == 0
    assert able.sum() == theirs.get("FEAS").sum()
    assert ours.rank[able].tolist() == theirs.get("rank")[able].tolist()
    assert ours.crowding[able].tolist() == theirs.get("crowding")[able].tolist()


def _randomized_argsort(
    values: NDArray[np.float64], *, order: str, method: str, random_state: np.random.Generator
) -> NDArray[np.intp]:
    assert method == "numpy"
    drawn = random_state.permutation(len(values))
    found: NDArray[np.intp] = drawn[np.argsort(values[drawn], kind="stable")]
    return found[::-1] if order == "descending" else found
