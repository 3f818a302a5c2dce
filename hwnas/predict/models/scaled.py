"""A weighted geometric mean of other devices' predictions, for transfer to a new device.

The predictions are columns of the features (`with_source_predictions`), each made under the conditions of its device.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features, source_column
from hwnas.predict.stored import StoredTable


@dataclass(frozen=True, kw_only=True)
class Scaled(ContiguousArrays):
    """The model exp(offset + weights . (log predictions - centres))."""

    kind: ClassVar[str] = "scaled"
    sources: tuple[str, ...]
    weights: Numbers
    centres: Numbers
    offset: float

    def predict(self, features: Features) -> Numbers:
        """Return the weighted geometric mean."""
        predicted: Numbers = np.exp(self.offset + (source_logs(self.sources, features) - self.centres) @ self.weights)
        return predicted

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "sources": list(self.sources),
            "weights": self.weights.tolist(),
            "centres": self.centres.tolist(),
            "offset": self.offset,
        }

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("sources", "weights", "centres", "offset")
        sources = data.names("sources")
        return cls(
            sources=sources,
            weights=data.array("weights", len(sources)),
            centres=data.array("centres", len(sources)),
            offset=data.number("offset"),
        )


@dataclass(frozen=True, kw_only=True)
class Mean(ContiguousArrays):
    """A weighted arithmetic mean of sources, as for a batch between theirs."""

    kind: ClassVar[str] = "mean"

    sources: tuple[str, ...]
    weights: Numbers

    def predict(self, features: Features) -> Numbers:
        """Return the weighted arithmetic mean."""
        predicted: Numbers = np.exp(source_logs(self.sources, features)) @ self.weights
        return predicted

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"sources": list(self.sources), "weights": self.weights.tolist()}

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make it from what `to_json` returned."""
        data.require_keys("sources", "weights")
        sources = data.names("sources")
        return cls(sources=sources, weights=data.array("weights", len(sources), low=0, high=1))


def source_logs(sources: tuple[str, ...], features: Features) -> Numbers:
    """Return the logarithms of the sources' predictions, one column per source."""
    return features.shapes_by([source_column(source) for source in sources])
