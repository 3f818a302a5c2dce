"""An analytic mean and a correction for each distinct block: a look-up table that knows what a new block costs.

A network's target is the mean plus, for each of its blocks, that block's own difference; blocks that were seldom seen
are held back towards the mean, and one that was hardly ever seen is the mean. In a space of thousands of blocks the
commonest ones are told apart, so that fitting and asking stay quick.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.analytic import Analytic, AnalyticLearner
from hwnas.predict.models.model import Plain, checked, names, numbers

_ALPHAS = np.logspace(-2, 4, 13)
_SMALLEST_SHARE = 0.1
_FEWEST = 3
"""A block that stands in fewer fitted networks has no difference of its own."""


@dataclass(frozen=True, kw_only=True)
class Blocks(ContiguousArrays):
    """A fitted mean with a difference for each distinct block."""

    kind: ClassVar[str] = "blocks"
    mean: Analytic
    count_names: tuple[str, ...]
    differences: Numbers
    """Time of a block beyond the analytic mean."""

    def predict(self, features: Features) -> Numbers:
        """The mean and the differences."""
        mean = self.mean.predict(features)
        return np.maximum(mean + features.counts_by(self.count_names) @ self.differences, _SMALLEST_SHARE * mean)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "mean": self.mean.to_json(),
            "count_names": list(self.count_names),
            "differences": self.differences.tolist(),
        }

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            mean=Analytic.from_json(data["mean"]),
            count_names=names(data["count_names"]),
            differences=numbers(data["differences"]),
        )


@dataclass(frozen=True, kw_only=True)
class BlocksLearner:
    """Fits the mean, then the differences (ridge, its strength by leave-one-out error)."""

    name: str = "blocks"
    most: int = 256
    """So many blocks at most are told apart: those that stand in most networks."""

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Blocks:
        """Fit mean and differences."""
        from sklearn.linear_model import RidgeCV

        del seed
        target, weights = checked(features, target, weights)
        mean = AnalyticLearner().fit(features, target, weights=weights)
        count_names = self._common(features)
        if not count_names:
            return Blocks(mean=mean, count_names=(), differences=np.zeros(0))
        fitted = mean.predict(features)
        typical = float(np.median(target))
        columns = features.counts_by(count_names) * (typical / target)[:, None]
        left = (target - fitted) / target
        limit = max(5 * 1.4826 * float(np.median(abs(left))), 1e-6)
        ridge = RidgeCV(_ALPHAS, fit_intercept=False).fit(columns, np.clip(left, -limit, limit), sample_weight=weights)
        return Blocks(mean=mean, count_names=count_names, differences=ridge.coef_ * typical)

    def _common(self, features: Features) -> tuple[str, ...]:
        """The blocks that stand in most networks, in the order of the features."""
        networks = (features.counts > 0).sum(axis=0)
        commonest = np.argsort(-networks, kind="stable")[: self.most]
        return tuple(features.count_names[column] for column in np.sort(commonest) if networks[column] >= _FEWEST)
