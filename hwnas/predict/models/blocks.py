"""An analytic mean with a correction for each distinct block: a look-up table with a fallback for new blocks.

The prediction is the mean plus the difference of each block of the network. Ridge regression shrinks the differences of
rare blocks towards 0. Only the most frequent blocks have a difference, so that spaces with thousands of blocks are
fitted and predicted quickly.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.models.analytic import Analytic, AnalyticLearner
from hwnas.predict.models.linear import fit_penalised
from hwnas.predict.models.model import check_fit_inputs
from hwnas.predict.stored import StoredTable

_ALPHAS = np.logspace(-2, 4, 13)
_SMALLEST_SHARE = 0.1
_FEWEST = 3
"""Least number of fitted networks with a block for it to have a difference."""


@dataclass(frozen=True, kw_only=True)
class Blocks(ContiguousArrays):
    """A fitted mean with a difference for each distinct block."""

    kind: ClassVar[str] = "blocks"
    mean: Analytic
    count_names: tuple[str, ...]
    differences: Numbers
    """Time of a block beyond the analytic mean."""

    def predict(self, features: Features) -> Numbers:
        """Return the mean plus the differences."""
        mean = self.mean.predict(features)
        return np.maximum(mean + features.counts_by(self.count_names) @ self.differences, _SMALLEST_SHARE * mean)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "mean": self.mean.to_json(),
            "count_names": list(self.count_names),
            "differences": self.differences.tolist(),
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("mean", "count_names", "differences")
        names = data.names("count_names")
        mean = Analytic.from_json(data.table("mean"))
        return cls(mean=mean, count_names=names, differences=data.array("differences", len(names)))


@dataclass(frozen=True, kw_only=True)
class BlocksLearner:
    """Fit the mean, then the differences by ridge regression; leave-one-out error chooses the penalty."""

    name: str = "blocks"
    most: int = 256
    """Largest number of blocks with a difference; those that occur in most networks are taken."""

    def fit(self, features: Features, target: Numbers, *, weights: Numbers | None = None, seed: int = 0) -> Blocks:
        """Fit mean and differences."""
        del seed
        target, weights = check_fit_inputs(features, target, weights)
        mean = AnalyticLearner().fit(features, target, weights=weights)
        # The blocks that occur in most networks, in the order of the features.
        networks = (features.counts > 0).sum(axis=0)
        commonest = np.argsort(-networks, kind="stable")[: self.most]
        count_names = tuple(
            features.count_names[column] for column in np.sort(commonest) if networks[column] >= _FEWEST
        )
        if not count_names:
            return Blocks(mean=mean, count_names=(), differences=np.zeros(0))
        fitted = mean.predict(features)
        # Rows are divided by their target, so that errors are relative; outliers are clipped at five robust standard
        # deviations, because a ridge regression would spread them over all blocks of their network.
        typical = float(np.median(target))
        columns = features.counts_by(count_names) * (typical / target)[:, None]
        left = (target - fitted) / target
        limit = max(5 * 1.4826 * float(np.median(abs(left))), 1e-6)
        clipped = np.clip(left, -limit, limit)
        fit = fit_penalised(columns, clipped, weights=weights, alphas=_ALPHAS, intercept=False)
        return Blocks(mean=mean, count_names=count_names, differences=fit.coefficients * typical)
