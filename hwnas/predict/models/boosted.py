"""Gradient-boosted trees (XGBoost) on the residuals of the analytic mean, stored as XGBoost's own JSON.

XGBoost trusts its JSON: an index out of range or a cycle of nodes crashes the process. Stored trees are therefore
checked, and XGBoost reads a document that is made anew from the checked values alone.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.residual import CorrectedModel, Correction, fit_corrected
from hwnas.predict.stored import MAX_ITEMS, StoredTable


@dataclass(frozen=True)
class Trees:
    """A fitted sum of trees, kept as the text of XGBoost's JSON."""

    text: str
    num_inputs: int

    def correct(self, inputs: Numbers) -> Numbers:
        """Evaluate the trees."""
        values: Numbers = self._booster.inplace_predict(inputs.astype(np.float32)).astype(np.float64)
        return values

    def to_json(self) -> dict[str, Any]:
        """Return XGBoost's JSON, reduced to what predictions need."""
        return {"xgboost": _checked_document(StoredTable(json.loads(self.text)), self.num_inputs)}

    @classmethod
    def from_json(cls, data: StoredTable, *, num_inputs: int) -> Self:
        """Make the trees on so many inputs from what `to_json` returned."""
        data.require_keys("xgboost")
        document = _checked_document(data.table("xgboost"), num_inputs)
        return cls(json.dumps(document, separators=(",", ":")), num_inputs)

    @cached_property
    def _booster(self) -> Any:
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        try:
            booster.load_model(bytearray(self.text, "utf-8"))
        except xgboost.core.XGBoostError as error:
            message = "the trees of a predictor cannot be read by this version of XGBoost"
            raise InputError(message, got=str(error).splitlines()[0], hint="fit the predictor again") from error
        return booster


@dataclass(frozen=True, kw_only=True)
class Boosted(CorrectedModel):
    """An analytic mean corrected by trees."""

    kind: ClassVar[str] = "boosted"
    correction_type: ClassVar[type[Correction]] = Trees


@dataclass(frozen=True, kw_only=True)
class BoostedLearner:
    """Fit the mean, then `rounds` trees to its residuals."""

    name: str = "boosted"
    rounds: int = 400
    depth: int = 4
    rate: float = 0.05
    shrinkage: float = 1.0
    fading: bool = False
    """The correction fades with the distance from the fitted networks, as for networks of any kind."""

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Boosted:
        """Fit mean and trees."""
        fitted = fit_corrected(
            self,
            Boosted,
            features,
            target,
            weights=weights,
            seed=seed,
            shrinkage=self.shrinkage,
            fading=self.fading,
        )
        assert isinstance(fitted, Boosted)
        return fitted

    def learn(self, inputs: Numbers, residual: Numbers, *, weights: Numbers, seed: int) -> Trees:
        """Fit the trees."""
        import xgboost

        settings = {
            "max_depth": self.depth,
            "eta": self.rate,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
            "min_child_weight": 2,
            "reg_lambda": 2,
            "base_score": 0.0,
            "tree_method": "hist" if len(inputs) > 2000 else "exact",
            "nthread": 1,
            "seed": seed,
        }
        data = xgboost.DMatrix(inputs.astype(np.float32), residual, weight=weights)
        booster = xgboost.train(settings, data, self.rounds)
        trees = Trees(bytes(booster.save_raw("json")).decode("utf-8"), inputs.shape[1])
        vars(trees)["_booster"] = booster  # reading its own text again would take as long as many predictions
        return trees


_MAX_NODES = 4096
_MAX_FLOAT32 = 3e38
_ROOT_PARENT = 2**31 - 1
"""XGBoost's parent of a root."""


def _checked_document(data: StoredTable, num_inputs: int) -> dict[str, Any]:
    """Return the document of XGBoost 3.0, which later versions read, with the checked trees of another one."""
    learner = data.table("learner")
    learner.table("objective").text("name", ("reg:squarederror",))
    parameters, booster = learner.table("learner_model_param"), learner.table("gradient_booster")
    parameters.text("num_feature", (str(num_inputs),))
    booster.text("name", ("gbtree",))
    trees = [
        _checked_tree(tree, index, num_inputs)
        for index, tree in enumerate(booster.table("model").tables("trees", most=MAX_ITEMS))
    ]
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": list(range(len(trees) + 1)),
        "tree_info": [0] * len(trees),
        "trees": trees,
    }
    return {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"model": model, "name": "gbtree"},
            "learner_model_param": {
                "base_score": repr(_base_score(parameters)),
                "boost_from_average": "0",
                "num_class": "0",
                "num_feature": str(num_inputs),
                "num_target": "1",
            },
            "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
        },
        "version": [3, 0, 0],
    }


def _base_score(parameters: StoredTable) -> float:
    """Return the value that is added to the trees: a number as a text, in brackets since XGBoost 3.1."""
    text = parameters.value("base_score")
    try:
        score = float(str(text).removeprefix("[").removesuffix("]"))
    except ValueError:
        score = math.nan
    if not isinstance(text, str) or not abs(score) <= _MAX_FLOAT32:
        raise InputError(f"{parameters.where}.base_score must be a number as a text", got=shown(text))
    return score


def _checked_tree(data: StoredTable, index: int, num_inputs: int) -> dict[str, Any]:
    """Return a tree for XGBoost, after checking that its nodes are a binary tree of splits on numbers."""
    count = len(data.items("left_children", most=_MAX_NODES))
    left = data.whole_array("left_children", count, low=-1, high=count - 1)
    right = data.whole_array("right_children", count, low=-1, high=count - 1)
    nodes, splits = np.arange(count), left >= 0
    children = np.concatenate([left[splits], right[splits]])
    # Children come after their parent, so there is no cycle, and each node but the root is the child of one node.
    ordered = (np.minimum(left, right)[splits] > nodes[splits]).all()
    if not ordered or ((right >= 0) != splits).any() or not np.array_equal(np.sort(children), nodes[1:]):
        raise InputError(f"{data.where} must be a binary tree", got="children that make none")
    parents = np.full(count, _ROOT_PARENT)
    parents[left[splits]] = parents[right[splits]] = nodes[splits]
    zeros, no_figures = [0] * count, [0.0] * count
    data.whole_array("split_type", count, low=0, high=0)  # splits on categories have 1
    return {
        "base_weights": no_figures,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": data.whole_array("default_left", count, low=0, high=1).tolist(),
        "id": index,
        "left_children": left.tolist(),
        "loss_changes": no_figures,
        "parents": parents.tolist(),
        "right_children": right.tolist(),
        "split_conditions": data.array("split_conditions", count, low=-_MAX_FLOAT32, high=_MAX_FLOAT32).tolist(),
        "split_indices": data.whole_array("split_indices", count, low=0, high=num_inputs - 1).tolist(),
        "split_type": zeros,
        "sum_hessian": no_figures,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(num_inputs),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    }
