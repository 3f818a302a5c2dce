"""XGBoost crashes on damaged trees, so they are checked before it sees them."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.predict.models import BoostedLearner, fitted_from_json, fitted_to_json
from hwnas.predict.stored import StoredTable
from tests.predict.synthetic import measured_times, networks


@cache
def _stored() -> dict[str, Any]:
    features = networks(60)
    fitted = BoostedLearner(rounds=3).fit(features, measured_times(features))
    data: dict[str, Any] = json.loads(json.dumps(fitted_to_json(fitted)))
    return data


def _learner(data: dict[str, Any]) -> dict[str, Any]:
    learner: dict[str, Any] = data["correction"]["xgboost"]["learner"]
    return learner


def _trees(data: dict[str, Any]) -> list[Any]:
    trees: list[Any] = _learner(data)["gradient_booster"]["model"]["trees"]
    return trees


def _on_tree(name: str, value: object, index: int = 0) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        _trees(data)[1][name][index] = value

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "child out of range": _on_tree("left_children", 10_000),
    "negative child": _on_tree("left_children", -2),
    "loop": _on_tree("left_children", 0),
    "loop below": _on_tree("right_children", 1, 2),
    "one child": _on_tree("right_children", -1),
    "shared child": lambda data: _trees(data)[1]["left_children"].__setitem__(0, _trees(data)[1]["right_children"][0]),
    "split index out of range": _on_tree("split_indices", 100_000),
    "negative split index": _on_tree("split_indices", -1),
    "huge split index": _on_tree("split_indices", 10**30),
    "fractional split index": _on_tree("split_indices", 0.5),
    "boolean child": _on_tree("left_children", True),
    "split condition beyond float32": _on_tree("split_conditions", 1e39),
    "split condition text": _on_tree("split_conditions", "1"),
    "categorical split": _on_tree("split_type", 1),
    "default of 2": _on_tree("default_left", 2),
    "short children": lambda data: _trees(data)[0]["right_children"].pop(),
    "short conditions": lambda data: _trees(data)[0]["split_conditions"].pop(),
    "long indices": lambda data: _trees(data)[0]["split_indices"].append(0),
    "no nodes": lambda data: _trees(data)[0].update(left_children=[]),
    "no children": lambda data: _trees(data)[0].pop("left_children"),
    "children are a number": lambda data: _trees(data)[0].update(left_children=3),
    "tree is null": lambda data: _trees(data).__setitem__(0, None),
    "no trees": lambda data: _trees(data).clear(),
    "other number of inputs": lambda data: _learner(data)["learner_model_param"].update(num_feature="3"),
    "number of inputs is a number": lambda data: _learner(data)["learner_model_param"].update(num_feature=3),
    "infinite base score": lambda data: _learner(data)["learner_model_param"].update(base_score="inf"),
    "base score is no number": lambda data: _learner(data)["learner_model_param"].update(base_score="[1,2]"),
    "another booster": lambda data: _learner(data)["gradient_booster"].update(name="dart"),
    "another objective": lambda data: _learner(data)["objective"].update(name="multi:softmax"),
    "learner is a list": lambda data: data["correction"]["xgboost"].update(learner=[]),
    "no document": lambda data: data["correction"].update(xgboost="x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_trees_are_refused_before_xgboost_reads_them(name: str) -> None:
    data = deepcopy(_stored())
    HOSTILE[name](data)
    with pytest.raises(InputError, match=r"model\.correction\.xgboost"):
        fitted_from_json(StoredTable(data))


def test_what_predictions_do_not_need_does_not_reach_xgboost() -> None:
    data, test = deepcopy(_stored()), networks(20, seed=1)
    expected = fitted_from_json(StoredTable(_stored())).predict(test)
    _learner(data).update(attributes={"best_iteration": "99999"}, feature_names=["x"], unknown=1)
    _learner(data)["gradient_booster"]["model"].update(tree_info=[7], iteration_indptr=[0, 9], cats={"enc": [1]})
    _trees(data)[0].update(id=99, parents=[5], categories=[1, 2, 3], tree_param={"num_nodes": "9999999"})
    np.testing.assert_array_equal(fitted_from_json(StoredTable(data)).predict(test), expected)
