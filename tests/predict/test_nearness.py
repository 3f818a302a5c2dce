import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.metrics import parse_metric
from hwnas.predict.features.table import Features, joined
from hwnas.predict.fit import Observations, fit_predictor
from hwnas.predict.models import AnalyticLearner, BoostedLearner, RidgeLearner
from hwnas.predict.nearness import HeldOutErrors, Nearness, fit_nearness, nearest, reference_points
from hwnas.predict.predictor import Predictor
from hwnas.predict.stored import StoredTable
from tests.predict.synthetic import Numbers, cpu_conditions, measured_times, networks, true_times

SPACES = ("autoformer-tiny", "autoformer-base", "glit-tiny", "resnas-tiny")


def _of_families(count: int, *, seed: int = 0) -> tuple[Features, Numbers, list[str]]:
    """Networks of four families, each slower than the law of all by a factor of its own."""
    parts = [networks(count, space=space, seed=seed) for space in SPACES]
    slower = [1.0, 1.1, 1.35, 0.8]
    times = [
        factor * measured_times(true, seed=seed + place)
        for place, (factor, true) in enumerate(zip(slower, parts, strict=True))
    ]
    return joined(parts), np.concatenate(times), [name for name in SPACES for _ in range(count)]


def _fitted(features: Features, values: Numbers, families: list[str]) -> Predictor:
    observed = Observations(
        metric=parse_metric("latency_ms@some-cpu-4c/onnxruntime/fp32/b1"),
        conditions=cpu_conditions(),
        features=features,
        values=values,
        families=families,
    )
    return fit_predictor(observed, learners=(AnalyticLearner(), RidgeLearner()), with_curve=False)


def test_a_card_shows_the_error_of_like_and_of_unlike_networks() -> None:
    predictor = _fitted(*_of_families(40))
    card, unlike = predictor.card, predictor.card.unlike
    assert unlike is not None
    assert unlike.num_families == 4
    assert unlike.scores.mape > 2 * card.scores.mape
    assert 0.85 <= card.coverage_at(0.9) <= 0.97
    inside = next(entry.share for entry in unlike.coverage if entry.confidence == 0.9)
    assert 0.5 < inside <= 1
    again = Predictor.from_json(card, StoredTable(predictor.model_json()))
    np.testing.assert_array_equal(
        again.predict_features(networks(9)).upper, predictor.predict_features(networks(9)).upper
    )


def test_the_interval_of_an_unlike_network_is_wider() -> None:
    features, values, families = _of_families(40)
    known = np.flatnonzero([name != "resnas-tiny" for name in families])
    predictor = _fitted(features.take(known), values[known], [families[row] for row in known])
    like, unlike = (
        predictor.predict_features(networks(50, space=space, seed=5)) for space in ("autoformer-tiny", "resnas-tiny")
    )
    like_width, unlike_width = (np.median(np.log(found.upper / found.lower)) for found in (like, unlike))
    assert unlike_width > 2 * like_width


def test_the_size_of_errors_rises_with_the_distance() -> None:
    rng = np.random.default_rng(0)
    distance = rng.uniform(0, 4, 400)
    logs = 0.01 * (1 + distance) * rng.standard_normal(400)
    near, far = distance < 2, distance >= 2
    held_out = [HeldOutErrors(logs=logs[part], distance=distance[part]) for part in (near, far)]
    nearness, errors, _ = fit_nearness(np.zeros((1, 2)), *held_out)
    assert (np.diff(nearness.sizes) >= 0).all()
    assert nearness.scale_at(np.array([3.8]))[0] > 2 * nearness.scale_at(np.array([0.1]))[0]
    assert nearness.scale_at(np.array([1e9]))[0] == pytest.approx(3 * nearness.sizes[-1])
    assert (np.diff(errors) >= 0).all()


def test_the_nearest_of_many_points_is_found_in_blocks() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    asked = np.random.default_rng(1).normal(size=(9000, 3))
    plain = np.sqrt(((asked[:, None] - points) ** 2).mean(axis=2).min(axis=1))
    np.testing.assert_allclose(nearest(asked, points), plain, atol=1e-7)
    assert len(reference_points(asked)) == 512


def test_stored_distances_must_rise() -> None:
    stored = Nearness(points=np.zeros((1, 2)), distances=np.array([0.0, 1.0]), sizes=np.array([0.1, 0.2])).to_json()
    assert Nearness.from_json(StoredTable(stored), 2).sizes.tolist() == [0.1, 0.2]
    with pytest.raises(InputError, match="ascending order"):
        Nearness.from_json(StoredTable({**stored, "distances": [1.0, 0.0]}), 2)


def test_a_correction_is_never_larger_than_any_that_fitted_networks_needed() -> None:
    features, values, _ = _of_families(40)
    fitted = BoostedLearner(rounds=30).fit(features, values)
    unlike = networks(40, space="vitas-deit-small-shifted")
    off = np.log(fitted.predict(unlike) / fitted.design.mean.predict(unlike))
    residual = np.log(values / fitted.design.mean.predict(features))
    assert residual.min() <= off.min()
    assert off.max() <= residual.max()
    bound = BoostedLearner(rounds=30).fit(features, true_times(features))
    assert bound.low <= 0 <= bound.high
