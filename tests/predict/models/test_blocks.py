import numpy as np

from hwnas.predict.models import AnalyticLearner, BlocksLearner, Stack, counted_blocks
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


def test_the_commonest_blocks_are_told_apart_and_rare_ones_are_not() -> None:
    train = networks(60, space="resnas-tiny", counts=True)
    networks_with = dict(zip(train.count_names, (train.counts > 0).sum(axis=0), strict=True))
    fitted = BlocksLearner(most=20).fit(train, true_times(train))
    chosen = [networks_with[name] for name in fitted.count_names]
    assert len(chosen) == 20
    assert min(chosen) >= max(3, sorted(networks_with.values())[-20])
    every = BlocksLearner(most=10**6).fit(train, true_times(train))
    assert set(every.count_names) == {name for name, count in networks_with.items() if count >= 3}


def test_a_stack_names_the_blocks_of_its_members() -> None:
    train = networks(40, counts=True)
    blocks = BlocksLearner().fit(train, true_times(train))
    plain = AnalyticLearner().fit(train, true_times(train))
    inner = Stack(members=(plain, blocks), weights=np.array([0.5, 0.5]))
    assert counted_blocks(plain) == ()
    assert counted_blocks(Stack(members=(plain, inner), weights=np.array([0.5, 0.5]))) == blocks.count_names
