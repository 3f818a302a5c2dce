import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.features.table import joined
from hwnas.predict.folds import Fold, group_equal_networks
from hwnas.predict.models import AnalyticLearner, RidgeLearner
from hwnas.predict.selection import HeldOutPredictions, Protocol, candidates, cross_validate, refit, with_stack_of
from tests.predict.synthetic import measured_times, networks, true_times

LEARNERS = (AnalyticLearner(), RidgeLearner())


def test_answers_are_of_networks_that_were_held_out() -> None:
    features = networks(40)
    target = measured_times(features)
    held_out = cross_validate(features, target, protocol=Protocol(repeats=2), learners=LEARNERS)
    fold = held_out.folds[1][3]
    alone = AnalyticLearner().fit(features.take(fold.fit), target[fold.fit]).predict(features.take(fold.held_out))
    np.testing.assert_array_equal(held_out.by_model["analytic"][1, fold.held_out], alone)
    assert list(held_out.by_model) == ["analytic", "ridge", "stack"]


def test_the_stack_of_a_fold_does_not_see_the_fold() -> None:
    features = networks(40)
    target = measured_times(features)
    held_out = cross_validate(features, target, protocol=Protocol(repeats=1), learners=LEARNERS)
    fold = held_out.folds[0][0]
    changed = target.copy()
    changed[fold.held_out] *= 3
    again = cross_validate(features, changed, protocol=Protocol(repeats=1), learners=LEARNERS)
    for name in ("analytic", "ridge"):
        np.testing.assert_array_equal(again.by_model[name][0, fold.held_out], held_out.by_model[name][0, fold.held_out])


def test_the_stack_of_left_out_families_has_the_weights_of_the_predictor() -> None:
    target, halves = np.ones(40), np.split(np.arange(40), 2)
    folds = ((Fold(halves[0], halves[1]), Fold(halves[1], halves[0])),)
    near, far = np.full((1, 40), 1.01), np.full((1, 40), 2.0)
    networks_out, families_out = (
        HeldOutPredictions(target=target, protocol=Protocol(), by_model={"a": a, "b": b, "stack": a}, folds=folds)
        for a, b in ((near, far), (far, near))
    )
    found = with_stack_of(families_out, networks_out)
    assert found.by_model["stack"] == pytest.approx(far)
    assert found.scores("b").mape == pytest.approx(0.01)
    alone = HeldOutPredictions(target=target, protocol=Protocol(), by_model={"a": near}, folds=folds)
    assert with_stack_of(alone, alone) is alone


def test_the_simpler_model_wins_a_tie() -> None:
    target = np.ones(10)
    wrong = np.full((1, 10), 1.0200)
    near = np.full((1, 10), 1.0199)
    better = np.full((1, 10), 1.0100)
    held_out = HeldOutPredictions(
        target=target, protocol=Protocol(), by_model={"simple": wrong, "other": near}, folds=()
    )
    assert held_out.choice() == "simple"
    assert list(held_out.ranking()) == ["other", "simple"]
    held_out = HeldOutPredictions(
        target=target, protocol=Protocol(), by_model={"simple": wrong, "other": better}, folds=()
    )
    assert held_out.choice() == "other"


def test_a_refitted_stack_has_members_of_weight() -> None:
    features = networks(40)
    target = measured_times(features)
    held_out = cross_validate(features, target, protocol=Protocol(repeats=1), learners=LEARNERS)
    stack = refit("stack", features, target, held_out=held_out, learners=LEARNERS)
    assert np.abs(stack.predict(features) / true_times(features) - 1).mean() < 0.01


def test_equal_networks_are_never_on_both_sides() -> None:
    features = networks(20)
    twice = joined([features, features])
    held_out = cross_validate(
        twice, np.tile(measured_times(features), 2), protocol=Protocol(repeats=1), learners=LEARNERS
    )
    labels = group_equal_networks(twice)
    for fold in held_out.folds[0]:
        assert not {labels[row] for row in fold.fit} & {labels[row] for row in fold.held_out}


def test_blocks_are_tried_where_they_are_counted() -> None:
    assert "blocks" not in [learner.name for learner in candidates(networks(4))]
    assert "blocks" in [learner.name for learner in candidates(networks(4, counts=True))]


@pytest.mark.parametrize(("rows", "got"), [(range(5), "5 rows of 5"), ([0] * 30, "30 rows of 1")])
def test_too_few_distinct_networks_are_refused(rows: object, got: str) -> None:
    features = networks(8).take(np.array(list(rows)))  # type: ignore[call-overload]
    with pytest.raises(InputError, match="at least 8 distinct networks") as caught:
        cross_validate(features, np.ones(len(features)), protocol=Protocol())
    assert caught.value.got == got
