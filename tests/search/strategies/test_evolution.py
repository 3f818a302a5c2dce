"""The published evolutions: their settings, their windows, their draws, their levels."""

import random
from collections import Counter

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search.ledger import Budget, SearchLedger, Stopwatch
from hwnas.search.region import full_region
from hwnas.search.run import SearchOutcome, run_search
from hwnas.search.strategies.evolution import Evolution, Window
from hwnas.search.strategies.nsga2 import HierarchicalSearch
from hwnas.search.strategies.published import AutoFormerEvolution, GlitEvolution, ResNasEvolution, VitasEvolution
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Genomes
from tests.search.toys import Truth, accuracy, evaluators, problem, rows_as_set
from tests.strategies import TINY

GLIT = SPACES.get("glit-micro")
AUTOFORMER = SPACES.get("autoformer-tiny")
AUTOFORMER_SMALL = SPACES.get("autoformer-small")
RESNAS_SMALL = SPACES.get("resnas-small")


def search(space: AnySpace, strategy: Evolution, *constraints: str, evaluations: int) -> tuple[SearchOutcome, Genomes]:
    """The outcome of a search, and the networks that it evaluated."""
    truth = Truth(space)
    outcome = run_search(
        problem(space, *constraints),
        evaluators(space, truth),
        strategy=strategy,
        budget=Budget(evaluations=evaluations),
    )
    return outcome, np.array(truth.asked, dtype=np.int16)


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


def test_bounds_on_both_sides_are_the_window() -> None:
    # As in the released code with `--min-param-limits 18 --param-limits 23`.
    outcome, asked = search(AUTOFORMER_SMALL, AutoFormerEvolution(), "params>=18M", "params<=23M", evaluations=150)
    params = AUTOFORMER_SMALL.costs(asked).params / 1e6
    assert outcome.evaluations == 150
    assert 18 <= params.min() < 18.5
    assert 22.5 < params.max() <= 23


def test_a_lower_bound_alone_ends_the_range_of_the_windows() -> None:
    ledger = SearchLedger(problem(AUTOFORMER_SMALL, "params>=20M"), evaluators(AUTOFORMER_SMALL), budget=Budget())
    windows = AutoFormerEvolution(windows=3).make_windows(ledger)
    assert [window.high > window.low >= 20e6 for window in windows] == [True] * 3
    largest = AUTOFORMER_SMALL.costs(AUTOFORMER_SMALL.encode([AUTOFORMER_SMALL.largest()])).params[0]
    beyond = SearchLedger(
        problem(AUTOFORMER_SMALL, f"params>={largest}"), evaluators(AUTOFORMER_SMALL), budget=Budget()
    )
    assert AutoFormerEvolution().make_windows(beyond) == [Window(cost="params", low=largest, high=np.inf)]


@pytest.mark.parametrize(
    ("space", "strategy", "constraints", "sizes"),
    [
        # The released code of ViT-ResNAS draws until a generation is full, also in the window of its medium network.
        (RESNAS_SMALL, ResNasEvolution(initial=100, scaled=False), ("macs<=4.6G",), [100, 150]),
        # That of AutoFormer gives up after ten draws a child, and tops up to 50 with random networks.
        (AUTOFORMER_SMALL, AutoFormerEvolution(scaled=False), ("params>=22.8M", "params<=22.9M"), [50] * 4),
        (AUTOFORMER_SMALL, AutoFormerEvolution(scaled=False), ("params<=15.5M",), [50] * 4),
    ],
)
def test_generations_are_full_in_narrow_windows(
    space: AnySpace, strategy: Evolution, constraints: tuple[str, ...], sizes: list[int]
) -> None:
    outcome, _ = search(space, strategy, *constraints, evaluations=sum(sizes))
    assert np.bincount(outcome.candidates.generations).tolist() == sizes


def test_the_first_population_of_autoformer_is_uniform() -> None:
    # The rule of the released code, in other words: a depth, then a choice for each block, then a width; params decide.
    draws, config, window = random.Random(0), AUTOFORMER_SMALL.config, (15e6, 32e6)
    rows: list[list[int]] = []
    while len(rows) < 1000:
        depth = draws.choice(config.depths)
        choices = {"mlp_ratio": config.mlp_ratios, "num_heads": config.num_heads}
        genes = {name: [draws.randrange(len(values)) for _ in range(depth)] for name, values in choices.items()}
        genes["depth"], genes["embed_dim"] = [config.depths.index(depth)], [draws.randrange(len(config.embed_dims))]
        rows.append([(genes[d.name] + [0] * 99)[d.block or 0] for d in AUTOFORMER_SMALL.dimensions])
    official = np.array(rows, dtype=np.int16)
    params = AUTOFORMER_SMALL.costs(official).params
    official = official[(params >= window[0]) & (params <= window[1])]
    ours, spread = (
        search(
            AUTOFORMER_SMALL,
            AutoFormerEvolution(initial=len(official), scaled=False, random=way),
            f"params>={window[0]}",
            f"params<={window[1]}",
            evaluations=len(official),
        )[1]
        for way in ("published", "spread")
    )
    for name in ("depth", "embed_dim", "num_heads", "mlp_ratio"):
        columns = AUTOFORMER_SMALL.columns(name)
        # The mean over a network's blocks, and how much it differs between networks.
        here, there = (rows[:, columns].mean(axis=1) for rows in (ours, official))
        assert here.mean() == pytest.approx(there.mean(), abs=0.12)
        assert here.std() == pytest.approx(there.std(), rel=0.12)
    heads = AUTOFORMER_SMALL.columns("num_heads")
    assert spread[:, heads].mean(axis=1).std() > 1.25 * official[:, heads].mean(axis=1).std()


def test_networks_of_resnas_are_wide_ones_that_were_narrowed() -> None:
    # The rule of the released code and its count of MACs, one network at a time.
    draws, config, bound = random.Random(0), RESNAS_SMALL.config, 4.6e9

    def macs(net: list[dict[str, list[int]]]) -> float:
        grid, total, before = 16, 112**2 * (3 * 24 * 9 + 2 * 24 * 24 * 9), 24
        for index, (stage, own) in enumerate(zip(config.stages, net, strict=True)):
            embed = own["embed"][0]
            grid = 16 // 2**index
            total += 256 * embed * 24 * 49 if index == 0 else (9 * grid**2 + 1) * before * embed
            tokens, before = grid**2 + 1, embed
            for heads, hidden, exists in zip(own["heads"], own["hidden"], own["exists"], strict=True):
                width = heads * stage.head_dim
                total += exists * tokens * (4 * embed * width + 2 * tokens * width + 2 * embed * hidden)
        return total + before * 1000

    def drawn() -> list[dict[str, list[int]]] | None:
        net = [
            {
                "embed": [draws.choice(stage.embed_dims)],
                "heads": [max(stage.num_heads)] * stage.slots,
                "hidden": [max(stage.hidden_dims)] * stage.slots,
                "exists": [draws.randrange(2) if slot in stage.removable else 1 for slot in range(stage.slots)],
            }
            for stage in config.stages
        ]
        while macs(net) > bound:
            stage, own = draws.choice(list(zip(config.stages, net, strict=True)))
            slot, (name, choices) = (
                draws.randrange(stage.slots),
                draws.choice([("heads", stage.num_heads), ("hidden", stage.hidden_dims)]),
            )
            lower = [choice for choice in choices if choice < own[name][slot]]
            if lower and own["exists"][slot]:
                own[name][slot] = max(lower)
        return net if macs(net) >= 0.975 * bound else None

    official = [net for _ in range(150) if (net := drawn())]
    window = Window(cost="macs", low=0.975 * bound, high=bound)
    region, rng = full_region(RESNAS_SMALL), np.random.default_rng(0)
    ours = ResNasEvolution().random_networks(150, region, window, rng)
    cost = RESNAS_SMALL.costs(ours).macs
    ours = ours[(cost >= window.low) & (cost <= bound)]
    assert len(ours) == pytest.approx(len(official), abs=30)
    used = RESNAS_SMALL.used(ours)
    for ours_name, name, field in (("num_heads", "heads", "num_heads"), ("hidden_dim", "hidden", "hidden_dims")):
        columns = RESNAS_SMALL.columns(ours_name)
        here = ours[:, columns][used[:, columns]].mean()
        there = np.mean(
            [
                sorted(getattr(stage, field)).index(value)
                for net in official
                for stage, own in zip(config.stages, net, strict=True)
                for value, exists in zip(own[name], own["exists"], strict=True)
                if exists
            ]
        )
        assert here == pytest.approx(there, abs=0.15)


def test_parents_of_autoformer_are_pairs_of_equal_depth_alike_often() -> None:
    # The released code draws both parents again until they are of the same length.
    parents = AUTOFORMER.sample(np.random.default_rng(0), 10)
    depth = AUTOFORMER.used(parents).sum(axis=1)
    alike = [(i, j) for i in range(10) for j in range(10) if depth[i] == depth[j]]
    first, second = AutoFormerEvolution().pick_pairs(
        parents, 200 * len(alike), full_region(AUTOFORMER), np.random.default_rng(1)
    )
    index = {tuple(row): i for i, row in enumerate(parents.tolist())}
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    met = Counter((index[tuple(one)], index[tuple(other)]) for one, other in pairs)
    assert sorted(met) == alike
    assert min(met.values()) > 140
    assert max(met.values()) < 260


def test_tournaments_of_vitas_have_every_parent_equally_often() -> None:
    # pymoo's tournaments are a permutation of the population after the other, two in a row of which the better wins.
    parents = AUTOFORMER.sample(np.random.default_rng(0), 6)
    picked = VitasEvolution().pick_parents(parents, 3000, np.random.default_rng(1))
    met = Counter(map(tuple, picked.tolist()))
    wins = [met[tuple(row)] for row in parents.tolist()]
    # The best one wins all of its tournaments, one in each permutation; the worst one none, as 6 is even.
    assert (wins[0], wins[-1]) == (1000, 0)
    assert wins[1:-1] == pytest.approx([800, 600, 400, 200], abs=60)


def test_the_budget_of_empty_windows_goes_to_the_others() -> None:
    # The last windows of MACs have no network with so many parameters.
    outcome, asked = search(AUTOFORMER, VitasEvolution(windows=4), "params>=8.5M", evaluations=60)
    macs = AUTOFORMER.costs(asked).macs
    assert outcome.evaluations == 60
    assert macs.min() > 1.5e9


def test_the_budget_of_windows_that_run_out_goes_to_the_others() -> None:
    space = next(space for space in TINY if space.name == "tiny-autoformer-plain")
    # The windows begin at 0, so that the last one has the fewest networks: fewer than its share.
    outcome, _ = search(space, AutoFormerEvolution(share=0.0), evaluations=space.size - 1)
    assert outcome.evaluations == space.size - 1


def test_with_minutes_alone_all_windows_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Truth(AUTOFORMER)
    # A clock that goes on by a second for each evaluation.
    monkeypatch.setattr(Stopwatch, "seconds", lambda self: len(truth.asked))
    outcome = run_search(
        problem(AUTOFORMER),
        evaluators(AUTOFORMER, truth),
        strategy=AutoFormerEvolution(windows=3),
        budget=Budget(evaluations=None, minutes=5),
    )
    assert (outcome.stop, outcome.evaluations) == ("minutes", 300)
    params = AUTOFORMER.costs(np.array(truth.asked, dtype=np.int16)).params
    windows = AutoFormerEvolution(windows=3).make_windows(
        SearchLedger(problem(AUTOFORMER), evaluators(AUTOFORMER), budget=Budget())
    )
    counts = [int(((params >= window.low) & (params <= window.high)).sum()) for window in windows]
    assert counts == [100, 100, 100]


@pytest.mark.parametrize("strategy", [AutoFormerEvolution(), ResNasEvolution(), VitasEvolution()])
def test_evolution_finds_better_networks_than_a_draw_in_its_window(strategy: Evolution) -> None:
    truth = Truth(AUTOFORMER)
    asked = problem(AUTOFORMER, "macs<=1.5G", "params<=7M")
    run_search(asked, evaluators(AUTOFORMER, truth), strategy=strategy, budget=Budget(evaluations=300))
    values = accuracy(AUTOFORMER, np.array(truth.asked, dtype=np.int16))
    assert len(values) == 300
    # Half of them, as generations of AutoFormer have random networks too.
    assert np.sort(values[-50:])[25:].mean() > values[:14].max() - 0.005
    assert values[-50:].mean() > values[:14].mean()


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


@pytest.mark.parametrize("name", ["layout-glit-tiny", "details-301301310303-glit-tiny"])
def test_glit_spends_all_of_its_budget_on_the_only_level_with_choices(name: str) -> None:
    _, asked = search(SPACES.get(name), GlitEvolution(), evaluations=60)
    assert len(rows_as_set(asked)) == 60


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
        (AutoFormerEvolution, {"random": "gaussian"}, "random 'gaussian' is not known"),
        (AutoFormerEvolution, {"tries": 0}, "tries of the strategy must be at least 1"),
        (VitasEvolution, {"eta": 0.0}, "eta of the strategy must be above 0"),
        (GlitEvolution, {"carried": 0}, "carried of the strategy must be at least 1"),
        (HierarchicalSearch, {"first_level": ()}, "the first level must have at least one dimension"),
    ],
)
def test_settings_are_checked(kind: type[Evolution], options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**options)  # type: ignore[arg-type]
