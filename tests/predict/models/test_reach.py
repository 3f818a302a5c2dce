import json

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.models import BoostedLearner, GaussianLearner, fitted_from_json, fitted_to_json
from hwnas.predict.models.reach import Reach
from hwnas.predict.stored import StoredTable
from tests.predict.synthetic import measured_times, networks

LEARNERS = (GaussianLearner(fading=True), BoostedLearner(fading=True))


def test_the_weight_is_one_at_the_fitted_networks_half_at_the_usual_gap_and_none_far_away() -> None:
    inputs = np.linspace(-3, 3, 61)[:, None] / np.sqrt(3.1)
    reach = Reach.fit(inputs)
    at = inputs[-1] + np.array([[0.0], [1.0], [100.0]]) * (inputs[1] - inputs[0])
    assert reach.weights(inputs) == pytest.approx(1)
    assert reach.weights(at) == pytest.approx([1, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_a_fading_correction_is_whole_at_fitted_networks_and_none_for_others(
    learner: GaussianLearner | BoostedLearner,
) -> None:
    fitted, unlike = networks(60), networks(5, space="vitas-twins-small")
    times = measured_times(fitted, noise=0.2)
    model = learner.fit(fitted, times)
    whole = type(learner)().fit(fitted, times)
    mean = model.design.mean
    assert model.predict(fitted) == pytest.approx(whole.predict(fitted), rel=1e-9)
    assert model.predict(unlike) == pytest.approx(mean.predict(unlike), rel=1e-3)
    assert np.abs(whole.predict(unlike) / mean.predict(unlike) - 1).max() > 0.01
    again = fitted_from_json(StoredTable(json.loads(json.dumps(fitted_to_json(model)))))
    assert np.array_equal(again.predict(unlike), model.predict(unlike))


def test_a_reach_of_another_shape_is_refused() -> None:
    data = Reach.fit(np.random.default_rng(0).normal(size=(20, 4))).to_json()
    with pytest.raises(InputError, match="rotation"):
        Reach.from_json(StoredTable(data), num_inputs=5)
    with pytest.raises(InputError, match="length"):
        Reach.from_json(StoredTable({**data, "length": 0}), num_inputs=4)
