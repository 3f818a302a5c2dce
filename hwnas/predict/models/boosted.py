"""Gradient-boosted trees (XGBoost) on the residuals of the analytic mean, stored as XGBoost's own JSON."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.model import Plain
from hwnas.predict.models.residual import CorrectedModel, Correction, fit_corrected


@dataclass(frozen=True)
class Trees:
    """A fitted sum of trees, kept as the text of XGBoost's JSON."""

    text: str

    def correct(self, inputs: Numbers) -> Numbers:
        """Evaluate the trees."""
        values: Numbers = self._booster.inplace_predict(inputs.astype(np.float32)).astype(np.float64)
        return values

    def to_json(self) -> dict[str, Any]:
        """Return XGBoost's JSON."""
        return {"xgboost": json.loads(self.text)}

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Make it from what `to_json` returned."""
        return cls(json.dumps(data["xgboost"]))

    @cached_property
    def _booster(self) -> Any:
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(self.text, "utf-8"))
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

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Boosted:
        """Fit mean and trees."""
        fitted = fit_corrected(self, Boosted, features, target, weights=weights, seed=seed, shrinkage=self.shrinkage)
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
        return Trees(bytes(booster.save_raw("json")).decode("utf-8"))
