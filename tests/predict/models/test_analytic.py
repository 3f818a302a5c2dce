import numpy as np
import pytest

from hwnas.predict.features.table import features_of
from hwnas.predict.models.analytic import AnalyticLearner, usual_coefficients
from tests.predict.synthetic import networks


def test_coefficients_are_found_and_never_negative() -> None:
    rng = np.random.default_rng(0)
    costs = {"linear.macs>512": rng.uniform(1, 5, 80), "linear.bytes": rng.uniform(1, 5, 80), "runs": np.ones(80)}
    features = features_of(costs)
    target = features.costs @ [1.4, 0.6, 0.0]
    fitted = AnalyticLearner().fit(features, target)
    np.testing.assert_allclose(fitted.coefficients, [1.4, 0.6, 0.0], atol=0.02)
    assert (fitted.coefficients >= 0).all()


def test_outliers_hardly_move_it() -> None:
    rng = np.random.default_rng(0)
    features = features_of({"linear.macs>512": rng.uniform(1, 5, 60), "linear.bytes": rng.uniform(1, 5, 60)})
    target = features.costs @ [1.5, 0.8]
    target[:6] *= 4
    predicted = AnalyticLearner().fit(features, target).predict(features)
    assert np.abs(predicted[6:] / target[6:] - 1).max() < 0.02


def test_a_cost_that_no_fitted_network_has_keeps_its_usual_coefficient() -> None:
    rng = np.random.default_rng(0)
    features = features_of({"linear.macs>512": rng.uniform(1, 5, 40), "convolution.macs>512": np.zeros(40)})
    target = 3.0 * features.costs[:, 0]
    fitted = AnalyticLearner().fit(features, target)
    assert usual_coefficients(features, target)[1] / usual_coefficients(features, target)[0] == pytest.approx(2.5 / 1.5)
    assert fitted.coefficients[1] == pytest.approx(5.0)


def test_every_feature_has_a_usual_coefficient() -> None:
    for space in ("autoformer-tiny", "resnas-tiny", "vitas-twins-small", "glit-tiny"):
        features = networks(10, space=space)
        alone = [usual_coefficients(features_of({name: np.ones(3)}), np.ones(3)) for name in features.cost_names]
        scaled = usual_coefficients(features, np.ones(10))
        assert np.isfinite(np.concatenate(alone)).all()
        assert len(set(np.round(scaled / scaled.max(), 6))) > 3
    for name in ("once.macs", "once.bytes", "strided.bytes", "float32.bytes"):
        usual = usual_coefficients(features_of({"linear.macs>512": np.ones(3), name: np.ones(3)}), np.ones(3))
        assert usual[0] != usual[1]  # equal shares are what is taken where a name is not known


def test_freedoms_count_by_their_held_out_error() -> None:
    features, rng = networks(60), np.random.default_rng(0)
    target = features.total() * rng.uniform(0.95, 1.05, 60)
    alone = [AnalyticLearner(freedoms=(freedom,)).fit(features, target).coefficients for freedom in (2.0, 100.0)]
    mixed = AnalyticLearner(freedoms=(2.0, 100.0)).fit(features, target).coefficients
    difference = alone[1] - alone[0]
    share = float((mixed - alone[0]) @ difference / (difference @ difference))
    assert 0 < share < 1
    np.testing.assert_allclose(mixed, alone[0] + share * difference, atol=1e-9)
    few = features.take(slice(10))
    first = AnalyticLearner(freedoms=(2.0,)).fit(few, target[:10])
    np.testing.assert_array_equal(AnalyticLearner().fit(few, target[:10]).coefficients, first.coefficients)
