from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.features.table import Features, features_of, with_source_predictions
from hwnas.predict.models import AnalyticLearner, Fitted
from hwnas.predict.transfer import SCRATCHES, transfer, transfer_methods
from tests.predict.synthetic import Numbers, measured_times, networks, true_times


def _source(power: float = 1.0, *, seed: int = 0) -> Fitted:
    features = networks(150, seed=20)
    return AnalyticLearner().fit(features, measured_times(features, seed=seed) ** power)


def _with(features: Features, **sources: Fitted) -> Features:
    return with_source_predictions(features, {name: source.predict(features) for name, source in sources.items()})


def _error(fitted: Fitted, truth: Numbers, **sources: Fitted) -> float:
    return float(np.abs(fitted.predict(_with(networks(200, seed=8), **sources)) / truth - 1).mean())


def test_a_sibling_device_needs_only_a_factor() -> None:
    few, truth = networks(10, seed=4), 2.7 * true_times(networks(200, seed=8))
    made = transfer(_with(few, sibling=_source()), 2.7 * measured_times(few, seed=6), sources=("sibling",))
    assert made.ranking["sibling scaled"].mape < 0.015
    assert _error(made.fitted, truth, sibling=_source()) < 0.01


def test_a_source_of_another_law_is_left_aside() -> None:
    few = networks(20, seed=4)
    rng = np.random.default_rng(0)
    other = features_of(dict(zip(few.cost_names, rng.uniform(1, 2, (len(few.cost_names), 60)), strict=True)))
    useless = AnalyticLearner().fit(other, rng.uniform(1, 99, 60))
    both = {"useless": useless, "sibling": _source()}
    made = transfer(_with(few, **both), measured_times(few, seed=6), sources=tuple(both))
    ranked = list(made.ranking)
    assert ranked.index("useless scaled") > ranked.index("sibling scaled")
    assert not any(name.startswith("useless") for name in made.shares)
    assert _error(made.fitted, true_times(networks(200, seed=8)), **both) < 0.03


def test_a_source_of_another_runtime_must_help_clearly() -> None:
    few = networks(20, seed=4)
    target = measured_times(few, seed=6, noise=0.02)
    near = _with(few, sibling=_source(power=1.2))
    alike = transfer(near, target, sources=("sibling",))
    assert alike.ranking["sibling bent"].mape > 0.5 * alike.scratch.mape
    assert "sibling bent" in alike.shares
    assert set(transfer(near, target, sources=("sibling",), unlike=("sibling",)).shares) <= set(SCRATCHES)


def test_a_source_of_another_runtime_that_helps_clearly_counts() -> None:
    few = networks(8, seed=4)
    rng = np.random.default_rng(0)
    target = measured_times(few, seed=6) * rng.uniform(0.5, 2, 8)  # which only the source knows
    knowing = with_source_predictions(few, {"sibling": target * rng.uniform(0.99, 1.01, 8)})
    made = transfer(knowing, target, sources=("sibling",), unlike=("sibling",))
    assert made.ranking["sibling scaled"].mape < 0.5 * made.scratch.mape
    assert made.sources_help


def test_an_unlike_source_does_not_spoil_the_basis_of_the_others() -> None:
    assert [name for name in transfer_methods(("a", "b")) if name.startswith("basis")] == ["basis"]
    tried = transfer_methods(("a", "b", "c"), unlike=("c",))
    assert {name: tried[name].sources for name in tried if name.startswith("basis")} == {
        "basis": ("a", "b"),
        "basis of all": ("a", "b", "c"),
    }
    assert "basis of all" not in transfer_methods(("c",), unlike=("c",))


def test_a_source_must_beat_the_best_model_from_scratch_and_not_the_sum_alone() -> None:
    few = networks(10, seed=4)
    made = transfer(_with(few, sibling=_source()), measured_times(few, seed=6), sources=("sibling",))
    assert made.sources_help
    assert made.scratch == min((made.ranking[name] for name in SCRATCHES), key=lambda found: found.mape)
    poor = {name: replace(found, mape=0.5) for name, found in made.ranking.items()}
    good = {**poor, SCRATCHES[-1]: replace(made.ranking[SCRATCHES[-1]], mape=made.mape / 2)}
    assert replace(made, ranking=poor).sources_help
    assert not replace(made, ranking=dict(sorted(good.items(), key=lambda item: item[1].mape))).sources_help
    assert not replace(made, shares={SCRATCHES[0]: 1.0}).sources_help


def test_one_wrong_measurement_does_not_spoil_it() -> None:
    few = networks(10, seed=4)
    target = measured_times(few, seed=6)
    target[3] *= 2
    made = transfer(_with(few, sibling=_source()), target, sources=("sibling",))
    assert _error(made.fitted, true_times(networks(200, seed=8)), sibling=_source()) < 0.03


def test_leave_one_out_predictions_are_kept() -> None:
    few = networks(10, seed=4)
    target = measured_times(few, seed=6)
    made = transfer(_with(few, sibling=_source()), target, sources=("sibling",))
    assert made.mixed.shape == (10,)
    assert sum(made.shares.values()) == pytest.approx(1)
    errors = [found.mape for found in made.ranking.values()]
    assert errors == sorted(errors)
    assert np.abs(made.mixed / target - 1).mean() < 1.2 * errors[0]
    assert "from scratch" in made.ranking


def test_three_networks_cannot_gate_a_source() -> None:
    few = networks(3)
    with pytest.raises(InputError, match="a transfer needs at least 4 measured networks"):
        transfer(few, measured_times(few), sources=())


def test_a_network_that_was_measured_twice_is_left_out_with_both_rows() -> None:
    few = networks(8, seed=4)
    target = measured_times(few, seed=6, noise=0.05)  # of the networks: both measurements of one are alike
    once = transfer(_with(few, sibling=_source()), target, sources=("sibling",))
    rows = np.arange(8).repeat(2)
    twice = transfer(_with(few.take(rows), sibling=_source()), target[rows], sources=("sibling",))
    assert sorted(tuple(fold.held_out) for fold in twice.folds) == [(row, row + 1) for row in range(0, 16, 2)]
    for name, found in once.ranking.items():
        assert twice.ranking[name].mape > 0.9 * found.mape
    with pytest.raises(InputError, match="a transfer needs at least 4 measured networks"):
        transfer(few.take(rows[:6]), target[rows[:6]], sources=())
