from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.metrics import ANY_BATCH, Metric, parse_metric
from hwnas.predict.arrays import round_last_bits
from hwnas.predict.features.counting import population_features
from hwnas.predict.features.table import features_of
from hwnas.predict.fit import Observations, as_throughput, fit_predictor
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.models import AnalyticLearner, BlocksLearner, RidgeLearner
from hwnas.predict.predictor import Predictor
from hwnas.predict.selection import Protocol
from hwnas.space import SPACES
from hwnas.workload import Workloads
from tests.predict.synthetic import NOISE, cpu_conditions, measured_times, networks, true_times

FAST = (AnalyticLearner(), RidgeLearner())


def observations(count: int = 60, *, name: str = "latency_ms") -> Observations:
    features = networks(count)
    times = measured_times(features)
    return Observations(
        metric=parse_metric(f"{name}@some-cpu-4c/onnxruntime/fp32/b1"),
        conditions=cpu_conditions(),
        features=features,
        values=1000 / times if name == "throughput" else times,
        noise_floor=0.8 * NOISE,
        sources=("profiles/some-cpu-4c",),
        environment={"driver": "1.2"},
    )


@cache
def fitted() -> Predictor:
    return fit_predictor(observations(), learners=FAST, with_curve=False)


def test_the_card_says_how_good_it_is_on_networks_that_were_held_out() -> None:
    predictor = fit_predictor(observations(120), learners=FAST)
    card = predictor.card
    assert card.scores.mape < 1.5 * 0.8 * NOISE
    assert card.error_over_floor == pytest.approx(card.scores.mape / (0.8 * NOISE))
    assert card.scores.spearman is not None
    assert card.scores.spearman > 0.99
    assert card.scores.count == 240
    # six networks have the same costs as another one, their layers in another order
    assert (card.data.num_rows, card.data.num_networks) == (120, 114)
    assert card.ranking[0].model in (card.model, "stack", "ridge", "analytic")
    assert {ranked.model for ranked in card.ranking} == {"analytic", "ridge", "stack"}
    assert [point.count for point in card.learning_curve] == [20, 50, 96]
    assert len(card.held_out) == 120
    ninety = next(entry.share for entry in card.coverage if entry.confidence == 0.9)
    assert 0.85 <= ninety <= 0.95
    new = networks(300, seed=7)
    prediction = predictor.predict_features(new)
    error = np.abs(prediction.mean / true_times(new) - 1).mean()
    assert error < card.scores.mape


def test_the_unfavourable_bound_is_the_slow_side() -> None:
    slow = fitted().predict_features(networks(9, seed=2))
    fast = fit_predictor(observations(name="throughput"), learners=FAST, with_curve=False).predict_features(
        networks(9, seed=2)
    )
    np.testing.assert_array_equal(slow.unfavourable, slow.upper)
    np.testing.assert_array_equal(fast.unfavourable, fast.lower)
    np.testing.assert_allclose(fast.mean, 1000 / slow.mean, rtol=1e-6)
    np.testing.assert_allclose(fast.lower, 1000 / slow.upper, rtol=1e-6)


def test_throughput_is_scored_in_images_a_second_by_the_model_that_the_time_chose() -> None:
    timed = fit_predictor(observations(), learners=FAST)
    batches = np.full(60, 1.0)
    found = as_throughput(timed, batches=batches, noise_floor=0.01).card
    direct = fit_predictor(observations(name="throughput"), learners=FAST).card
    assert (found.model, found.noise_floor) == (timed.card.model, 0.01)
    expected = {ranked.model: ranked.scores for ranked in direct.ranking}
    for ranked in found.ranking:
        assert ranked.scores.mape == pytest.approx(expected[ranked.model].mape, rel=1e-3)
        assert ranked.scores.max_error == pytest.approx(expected[ranked.model].max_error, rel=1e-3)
    errors = [ranked.scores.mape for ranked in found.ranking]
    assert errors == sorted(errors)
    assert [point.mape for point in found.learning_curve] == pytest.approx([p.mape for p in direct.learning_curve])
    assert found.scores.max_error != timed.card.scores.max_error
    with pytest.raises(ValueError, match="has no held-out predictions"):
        as_throughput(replace(timed, validation=None), batches=batches)


def test_a_greater_confidence_gives_wider_intervals() -> None:
    predictor = fitted()
    narrow, wide = (predictor.predict_features(networks(9, seed=2), confidence=share) for share in (0.5, 0.9))
    assert (wide.upper - wide.lower > narrow.upper - narrow.lower).all()


def test_populations_and_workloads_are_predicted_alike() -> None:
    predictor = fitted()
    space = SPACES.get("autoformer-tiny")
    workloads = space.workloads(space.sample(np.random.default_rng(4), 5))
    many = predictor.predict(workloads)
    singles = predictor.predict([workloads.workload(row) for row in range(5)])
    # what is predicted has eight digits, the last of which may be rounded either way
    np.testing.assert_allclose(many.mean, singles.mean, rtol=2e-8)
    np.testing.assert_allclose(many.upper, singles.upper, rtol=2e-8)
    assert not many.outside.any()


def test_the_last_bits_are_not_told() -> None:
    """They differ from one CPU to the next, and a search would decide by them between networks that are as fast."""
    found = fitted().predict_features(networks(200))
    for values in (found.mean, found.lower, found.upper):
        np.testing.assert_array_equal(values, round_last_bits(values))
    alike = group_equal_networks(networks(200))
    assert len(set(zip(alike, found.mean.tolist(), strict=True))) == len(set(alike)) < 200


def test_a_network_of_another_space_is_outside() -> None:
    predictor = fitted()
    strange = networks(3, space="vitas-twins-small")
    assert predictor.predict_features(strange).outside.all()
    with pytest.raises(InputError, match="net-0 is outside the fitted range") as caught:
        predictor.require_inside(strange, labels=["net-0", "net-1", "net-2"])
    assert "the fitted range is" in str(caught.value.got)


def test_groups_are_named_on_the_card() -> None:
    observed = replace(observations(), groups=[f"family-{row % 6}" for row in range(60)])
    card = fit_predictor(observed, learners=FAST, with_curve=False).card
    assert card.protocol.held_out == "groups"


def _with_blocks(count: int, *, seed: int = 0) -> tuple[Workloads, Observations]:
    """Networks of which some blocks take longer than their operations say."""
    space = SPACES.get("autoformer-tiny")
    workloads = space.workloads(space.sample(np.random.default_rng(seed), count))
    features = population_features(workloads, cpu_conditions(), counts=True)
    slow = [0.2 * (int(name[-1], 16) % 3) for name in features.count_names]
    return workloads, replace(
        observations(count), features=features, values=measured_times(features) + features.counts @ slow
    )


def test_block_counts_are_asked_for_where_the_model_counts_blocks() -> None:
    _, observed = _with_blocks(80)
    learners = (AnalyticLearner(), BlocksLearner())
    predictor = fit_predictor(observed, protocol=Protocol(repeats=1), learners=learners, with_curve=False)
    assert set(predictor.card.data.count_names) == set(observed.features.count_names)
    unseen, truth = _with_blocks(50, seed=3)
    assert np.abs(predictor.predict(unseen).mean / truth.values - 1).mean() < 0.02
    blind = predictor.predict([unseen.workload(0)]).mean[0]  # its operations alone: no block of it is known
    assert blind == pytest.approx(predictor.predict(unseen).mean[0], rel=0.3)
    assert blind != pytest.approx(predictor.predict(unseen).mean[0], rel=1e-3)


def test_a_model_that_counts_no_blocks_asks_for_none() -> None:
    workloads, observed = _with_blocks(30)
    predictor = fit_predictor(observed, protocol=Protocol(repeats=1), learners=FAST, with_curve=False)
    assert predictor.card.data.count_names == ()
    assert (predictor.predict(workloads).mean > 0).all()


def test_several_batches_need_one_to_predict_at() -> None:
    batches = np.array([1, 2, 4] * 20)
    conditions = replace(cpu_conditions(), batch=batches)
    observed = observations()
    deployment = replace(observed.metric.deployment, batch=ANY_BATCH)
    metric = Metric(name=observed.metric.name, deployment=deployment)
    observed = replace(observed, metric=metric, conditions=conditions)
    predictor = fit_predictor(observed, learners=FAST, with_curve=False)
    with pytest.raises(InputError, match="needs a batch"):
        predictor.predict_features(networks(2))
    assert (predictor.predict_features(networks(2), batch=2).mean > 0).all()


def test_another_batch_than_the_measured_one_is_refused() -> None:
    predictor = fitted()
    with pytest.raises(InputError, match="measured at another batch"):
        predictor.predict_features(networks(2), batch=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.full(60, np.nan)}, "latency_ms must be a finite number"),
        ({"values": np.r_[-1.0, np.ones(59)]}, "latency_ms must be between"),
        ({"values": np.ones(59)}, "there must be one value per network"),
        ({"environments": ["a"] * 59 + ["b"]}, "measurements must be of one environment"),
        ({"features": features_of({"runs": np.ones(60)})}, "at least 8 distinct networks"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_predictor(replace(observations(), **change), learners=FAST)  # type: ignore[arg-type]


def test_mixed_environments_are_possible_and_stand_on_the_card() -> None:
    observed = replace(observations(), environments=["a"] * 30 + ["b"] * 30)
    assert fit_predictor(observed, learners=FAST, allow_mixed=True, with_curve=False).card.data.is_mixed


def test_what_rounding_leaves_is_no_drift() -> None:
    observed, times = observations(120), np.arange(120.0)
    values = true_times(observed.features) * (1 + 5e-4 * np.sin(times / 16))
    card = fit_predictor(replace(observed, values=values, times=times), learners=FAST, with_curve=False).card
    assert card.notes == ()


def test_a_device_that_drifts_is_told_by_the_times_of_its_rows() -> None:
    observed = observations(100)
    times = np.random.default_rng(2).permutation(100).astype(np.float64)
    drifting = replace(observed, values=observed.values * (1 + 0.1 * np.sin(times / 16)))
    without = fit_predictor(drifting, learners=FAST, with_curve=False).card
    told = fit_predictor(replace(drifting, times=times), learners=FAST, with_curve=False).card
    assert told.scores.mape < 0.5 * without.scores.mape
    assert "the device drifted by up to" in told.notes[0]
    steady = fit_predictor(replace(observed, times=times), learners=FAST, with_curve=False).card
    assert steady.notes == ()


@pytest.mark.slow
def test_all_models_together_reach_the_noise_floor() -> None:
    card = fit_predictor(observations(100), protocol=Protocol(repeats=1)).card
    assert card.scores.mape < 1.3 * 0.8 * NOISE
