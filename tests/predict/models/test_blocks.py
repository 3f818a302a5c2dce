import numpy as np

from hwnas.predict.models import AnalyticLearner, BlocksLearner
from tests.predict.synthetic import networks, true_times


def test_blocks_that_differ_from_the_sum_are_learned() -> None:
    train, test = networks(90, counts=True), networks(40, seed=3, counts=True)
    extra = {name: 0.2 * (index % 4) for index, name in enumerate(train.count_names)}
    slow = [
        true_times(part) + part.counts @ [extra.get(name, 0.0) for name in part.count_names] for part in (train, test)
    ]
    errors = {
        learner.name: np.abs(learner.fit(train, slow[0]).predict(test) / slow[1] - 1).mean()
        for learner in (AnalyticLearner(), BlocksLearner())
    }
    assert errors["blocks"] < 0.5 * errors["analytic"]


def test_without_blocks_it_is_the_sum() -> None:
    train = networks(40)
    target = true_times(train)
    np.testing.assert_allclose(
        BlocksLearner().fit(train, target).predict(train), AnalyticLearner().fit(train, target).predict(train)
    )
