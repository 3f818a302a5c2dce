"""What holds for every model."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.drift import Drift
from hwnas.predict.features.table import Features, features_of, with_source_predictions
from hwnas.predict.fitted_range import FittedRange
from hwnas.predict.intervals import WhitenedComponents, calibrate
from hwnas.predict.models import LEARNERS, Boosted, Learner, Mean, Scaled, Stack, fitted_from_json, fitted_to_json
from hwnas.predict.models.model import Standardizer
from hwnas.predict.stored import StoredTable
from tests.predict.synthetic import Numbers, arrays_of, measured_times, networks, true_times

NAMES = LEARNERS.names()


@pytest.fixture(params=NAMES)
def learner(request: pytest.FixtureRequest) -> Learner:
    return LEARNERS.get(request.param)


def _train() -> Features:
    return networks(60, counts=True)


def _test() -> Features:
    return networks(40, seed=5, counts=True)


LAYOUTS: dict[str, Callable[[Numbers], Numbers]] = {
    "fortran": np.asfortranarray,
    "every other column": lambda values: np.repeat(values, 2, axis=1)[:, ::2],
    "every other row": lambda values: np.repeat(values, 2, axis=0)[::2],
    "turned": lambda values: values[::-1, ::-1].copy()[::-1, ::-1],
}


def _arranged(features: Features, layout: str) -> Features:
    arranged = LAYOUTS[layout]
    return replace(
        features, costs=arranged(features.costs), shapes=arranged(features.shapes), counts=arranged(features.counts)
    )


def test_it_predicts_networks_of_its_space(learner: Learner) -> None:
    fitted = learner.fit(_train(), measured_times(_train()))
    error = np.abs(fitted.predict(_test()) / true_times(_test()) - 1)
    assert error.mean() < 0.03
    assert np.median(error) < 0.02


def test_it_is_positive_and_has_one_figure_a_network(learner: Learner) -> None:
    fitted = learner.fit(_train(), measured_times(_train()))
    strange = networks(5, space="vitas-twins-small")
    predicted = fitted.predict(strange)
    assert predicted.shape == (5,)
    assert (predicted > 0).all()
    assert np.isfinite(predicted).all()
    assert fitted.predict(_test().take(slice(0, 0))).shape == (0,)


def test_json_gives_the_same_model_back(learner: Learner) -> None:
    fitted = learner.fit(_train(), measured_times(_train()))
    text = json.dumps(fitted_to_json(fitted), allow_nan=False)
    again = fitted_from_json(StoredTable(json.loads(text)))
    np.testing.assert_array_equal(again.predict(_test()), fitted.predict(_test()))
    assert json.dumps(fitted_to_json(again)) == text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_arrays_does_not_matter(learner: Learner, layout: str) -> None:
    """A product of the same numbers in another layout may differ in the last bit, so all of them get one layout."""
    target, arranged = measured_times(_train()), LAYOUTS[layout]
    fitted = learner.fit(_train(), target)
    other = learner.fit(_arranged(_train(), layout), arranged(target[:, None])[:, 0], weights=np.ones(120)[::2])
    assert json.dumps(fitted_to_json(other)) == json.dumps(fitted_to_json(fitted))
    again = fitted_from_json(StoredTable(json.loads(json.dumps(fitted_to_json(fitted)))))
    for model in (fitted, other, again):
        np.testing.assert_array_equal(model.predict(_arranged(_test(), layout)), fitted.predict(_test()))


def test_its_arrays_are_in_c_order(learner: Learner) -> None:
    fitted = learner.fit(_train(), measured_times(_train()))
    again = fitted_from_json(StoredTable(json.loads(json.dumps(fitted_to_json(fitted)))))
    for model in (fitted, again):
        found = arrays_of(model)
        assert len(found) > 0
        for name, array in found.items():
            assert array.flags.c_contiguous, name
            assert array.dtype == np.float64, name


def test_a_network_alone_gets_what_it_gets_among_others(learner: Learner) -> None:
    """Not to the last bit: for a single row BLAS takes another kernel."""
    fitted = learner.fit(_train(), measured_times(_train()))
    alone = [float(fitted.predict(_test().take([row]))[0]) for row in range(len(_test()))]
    np.testing.assert_allclose(alone, fitted.predict(_test()), rtol=1e-10)


def test_equal_seeds_give_equal_models(learner: Learner) -> None:
    target = measured_times(_train())
    first, second = (learner.fit(_train(), target, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.predict(_test()), second.predict(_test()))


def test_units_do_not_matter(learner: Learner) -> None:
    target = measured_times(_train())
    small, large = (learner.fit(_train(), unit * target).predict(_test()) for unit in (1.0, 1000.0))
    np.testing.assert_allclose(large / small, 1000, rtol=0.01)


def test_the_order_of_columns_does_not_matter_when_it_predicts(learner: Learner) -> None:
    fitted = learner.fit(_train(), measured_times(_train()))
    test = _test()
    turned = Features(
        cost_names=test.cost_names[::-1],
        costs=test.costs[:, ::-1],
        shape_names=test.shape_names[::-1],
        shapes=test.shapes[:, ::-1],
        count_names=test.count_names[::-1],
        counts=test.counts[:, ::-1],
    )
    np.testing.assert_allclose(fitted.predict(turned), fitted.predict(test), rtol=1e-12)


def test_a_row_of_weight_zero_hardly_counts(learner: Learner) -> None:
    target = measured_times(_train())
    wrong = target.copy()
    wrong[7] *= 20
    weights = np.ones(len(target))
    weights[7] = 0
    predicted = learner.fit(_train(), wrong, weights=weights).predict(_test())
    assert np.abs(predicted / true_times(_test()) - 1).mean() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.full(60, np.nan)}, "the target must be a finite number"),
        ({"target": np.r_[0.0, np.ones(59)]}, "targets must be above 0"),
        ({"target": np.ones(59)}, "targets must have one value per network"),
        ({"weights": np.zeros(60)}, "weights must not be negative, and not all 0"),
        ({"weights": np.ones(3)}, "weights must have one value per network"),
    ],
)
def test_bad_targets_and_weights_are_refused(learner: Learner, change: dict[str, object], message: str) -> None:
    given = {"target": np.ones(60), "weights": None, **change}
    with pytest.raises(InputError, match=message):
        learner.fit(_train(), given["target"], weights=given["weights"])  # type: ignore[arg-type]


def test_two_networks_are_too_few(learner: Learner) -> None:
    with pytest.raises(InputError, match="at least 3 networks"):
        learner.fit(_train().take([0, 1]), np.ones(2))


def test_columns_without_physical_meaning_do_too(learner: Learner) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(1, 4, (2, 80))
    features = features_of({"deep": sizes[0], "wide": sizes[0] * sizes[1]}, {"ratio": sizes[1]})
    target = 2 * sizes[0] + 3 * sizes[0] * sizes[1]
    fitted = learner.fit(features.take(slice(0, 60)), target[:60])
    assert np.abs(fitted.predict(features.take(slice(60, 80))) / target[60:] - 1).mean() < 0.05


def test_the_arrays_of_what_is_made_of_models_are_in_c_order_too() -> None:
    turned = np.asfortranarray(np.ones((3, 2)))
    for made in (
        Stack(members=(), weights=np.ones(4)[::2]),
        Scaled(sources=(), weights=np.ones(4)[::2], centres=np.ones(4)[::2], offset=0.0),
        WhitenedComponents.fit(_train()),
        FittedRange.fit(_arranged(_train(), "fortran")),
        calibrate(_train(), measured_times(_train()), true_times(_train())[None]),
        Drift(times=np.ones(4)[::2], logs=turned[0], width=None),
        Standardizer(turned, turned),
    ):
        for name, array in arrays_of(made).items():
            assert array.flags.c_contiguous, name
            assert array.dtype == np.float64, name


def test_a_stack_is_the_weighted_geometric_mean_of_its_members() -> None:
    target = measured_times(_train())
    members = tuple(LEARNERS.get(name).fit(_train(), target) for name in ("analytic", "ridge"))
    stack = Stack(members=members, weights=np.array([0.25, 0.75]))
    first, second = (member.predict(_test()) for member in members)
    np.testing.assert_allclose(stack.predict(_test()), first**0.25 * second**0.75)
    again = fitted_from_json(StoredTable(json.loads(json.dumps(fitted_to_json(stack)))))
    np.testing.assert_array_equal(again.predict(_test()), stack.predict(_test()))


def test_scaled_sources_survive_as_json() -> None:
    source = LEARNERS.get("analytic").fit(_train(), measured_times(_train()))
    asked = with_source_predictions(_test(), {"sibling": source.predict(_test())})
    scaled = Scaled(sources=("sibling",), weights=np.ones(1), centres=np.zeros(1), offset=float(np.log(2)))
    np.testing.assert_allclose(scaled.predict(asked), 2 * source.predict(_test()))
    again = fitted_from_json(StoredTable(json.loads(json.dumps(fitted_to_json(scaled)))))
    np.testing.assert_array_equal(again.predict(asked), scaled.predict(asked))
    half = Mean(sources=("sibling",), weights=np.array([0.5]))
    np.testing.assert_allclose(half.predict(asked), source.predict(_test()) / 2)
    again = fitted_from_json(StoredTable(json.loads(json.dumps(fitted_to_json(half)))))
    np.testing.assert_array_equal(again.predict(asked), half.predict(asked))


def test_a_correction_of_another_mean_survives_as_json() -> None:
    fitted = LEARNERS.get("boosted").fit(_train(), measured_times(_train()))
    assert isinstance(fitted, Boosted)
    twice = replace(fitted.design.mean, coefficients=2 * fitted.design.mean.coefficients)
    changed = replace(fitted, corrected=twice)
    np.testing.assert_allclose(changed.predict(_test()), 2 * fitted.predict(_test()))
    again = fitted_from_json(StoredTable(json.loads(json.dumps(fitted_to_json(changed)))))
    np.testing.assert_array_equal(again.predict(_test()), changed.predict(_test()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "model must be a table of named values"),
        ({"kind": "analytix"}, r"model\.kind: .*analytix"),
        ({"kind": []}, r"model\.kind: "),
        ({"kind": "analytic", "cost_names": ["a"]}, r"model\.coefficients is missing"),
        ({"kind": "analytic", "cost_names": ["a"], "coefficients": ["x"]}, r"model\.coefficients must be a list of 1"),
        ({"kind": "stack", "members": [], "weights": []}, r"model\.members must be a list of 1 to 64 items"),
    ],
)
def test_a_broken_model_is_refused(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitted_from_json(StoredTable(data))
