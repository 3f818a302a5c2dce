"""The published evolutions: their settings, their windows, their levels."""

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search.ledger import Budget, SearchLedger
from hwnas.search.region import full_region
from hwnas.search.run import run_search
from hwnas.search.strategies.evolution import Evolution
from hwnas.search.strategies.nsga2 import HierarchicalSearch
from hwnas.search.strategies.published import AutoFormerEvolution, GlitEvolution, ResNasEvolution, VitasEvolution
from hwnas.space import SPACES
from tests.search.toys import Truth, accuracy, evaluators, problem, rows_as_set

GLIT = SPACES.get("glit-micro")
AUTOFORMER = SPACES.get("autoformer-tiny")


@pytest.mark.parametrize(
    ("strategy", "evaluations"),
    [
        (AutoFormerEvolution(), 50 + 20 * 50),
        (ResNasEvolution(), 3350),
        (VitasEvolution(), 50 * 40),
        (GlitEvolution(), 500),
    ],
)
def test_published_settings_are_those_of_the_published_budget(strategy: Evolution, evaluations: int) -> None:
    sizes = strategy.sizes(evaluations)
    assert (sizes.initial, sizes.parents) == (strategy.initial, strategy.parents)
    assert sizes.initial + strategy.generations * (sizes.mutations + sizes.crossovers + sizes.drawn) == evaluations
    assert strategy.sizes(evaluations // 5).parents == strategy.parents // 5


def test_a_bounded_cost_is_searched_in_its_window() -> None:
    macs = AUTOFORMER.costs(AUTOFORMER.sample(np.random.default_rng(0), 100)).macs
    bound = float(np.median(macs))
    truth = Truth(AUTOFORMER)
    run_search(
        problem(AUTOFORMER, f"macs<={bound}"),
        evaluators(AUTOFORMER, truth),
        strategy=ResNasEvolution(),
        budget=Budget(evaluations=100),
    )
    asked = AUTOFORMER.costs(np.array(truth.asked, dtype=np.int16)).macs
    assert len(asked) == 100
    assert asked.min() >= 0.975 * bound
    assert asked.max() <= bound


def test_an_unbounded_cost_is_searched_in_windows_over_its_range() -> None:
    ledger = SearchLedger(problem(AUTOFORMER), evaluators(AUTOFORMER), budget=Budget())
    windows = AutoFormerEvolution(windows=4).make_windows(ledger)
    params = AUTOFORMER.costs(AUTOFORMER.encode([AUTOFORMER.smallest(), AUTOFORMER.largest()])).params
    assert [window.cost for window in windows] == ["params"] * 4
    tops = [window.high for window in windows]
    assert np.allclose(np.diff(tops), tops[1] - tops[0])
    assert tops[0] == pytest.approx(params[1], rel=0.02)
    assert all(window.low == 0.96 * window.high for window in windows)


@pytest.mark.parametrize("strategy", [AutoFormerEvolution(), ResNasEvolution(), VitasEvolution()])
def test_evolution_finds_better_networks_than_a_draw_in_its_window(strategy: Evolution) -> None:
    truth = Truth(AUTOFORMER)
    asked = problem(AUTOFORMER, "macs<=1.5G", "params<=7M")
    run_search(asked, evaluators(AUTOFORMER, truth), strategy=strategy, budget=Budget(evaluations=300))
    values = accuracy(AUTOFORMER, np.array(truth.asked, dtype=np.int16))
    assert len(values) == 300
    assert values[-50:].mean() > values[:14].max() - 0.005
    assert values[-50:].mean() > values[:14].mean()


def test_mates_of_autoformer_have_the_same_blocks() -> None:
    rng, region = np.random.default_rng(0), full_region(AUTOFORMER)
    parents = AUTOFORMER.sample(rng, 30)
    first = rng.integers(0, 30, size=200)
    mates = AutoFormerEvolution().mates(parents, first, region, rng)
    assert (AUTOFORMER.used(mates) == AUTOFORMER.used(parents[first])).all()
    assert (mates != parents[first]).any()


def test_glit_searches_the_distribution_first_with_middle_details() -> None:
    truth = Truth(GLIT)
    run_search(
        problem(GLIT, "macs<=1G"),
        evaluators(GLIT, truth),
        strategy=GlitEvolution(carried=2),
        budget=Budget(evaluations=80),
    )
    asked = np.array(truth.asked, dtype=np.int16)
    groups = GLIT.columns("groups")
    details = np.ones(asked.shape[1], dtype=bool)
    details[groups] = False
    frozen = GLIT.used(asked[:40])[:, details]
    assert set(asked[:40][:, details][frozen].tolist()) == {1}
    assert len(rows_as_set(asked[:40, groups])) == 40
    assert len(rows_as_set(asked[40:, groups])) <= 2
    best = asked[:40][np.argsort(-accuracy(GLIT, asked[:40]), kind="stable")[:2]]
    assert rows_as_set(asked[40:, groups]) <= rows_as_set(best[:, groups])


def test_hierarchical_search_carries_layouts_of_its_first_front() -> None:
    truth = Truth(GLIT)
    strategy = HierarchicalSearch(first_share=0.5, carried=4)
    run_search(problem(GLIT), evaluators(GLIT, truth), strategy=strategy, budget=Budget(evaluations=80))
    asked = np.array(truth.asked, dtype=np.int16)
    groups = GLIT.columns("groups")
    later = rows_as_set(asked[-30:, groups])
    assert len(later) <= 4
    assert later <= rows_as_set(asked[:50, groups])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (AutoFormerEvolution, {"block_rate": 1.5}, "block_rate of the strategy must be between 0 and 1"),
        (ResNasEvolution, {"share": -0.1}, "share of the strategy must be between 0 and 1"),
        (VitasEvolution, {"eta": 0.0}, "eta of the strategy must be above 0"),
        (GlitEvolution, {"carried": 0}, "carried of the strategy must be at least 1"),
        (HierarchicalSearch, {"first_level": ()}, "the first level must have at least one dimension"),
    ],
)
def test_settings_are_checked(kind: type[Evolution], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**options)  # type: ignore[arg-type]
