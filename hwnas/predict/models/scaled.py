"""Other devices' models as a basis for a new one: their predictions, weighted in the logarithm."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.features.table import Features, Numbers
from hwnas.predict.models.model import Fitted, Plain, numbers


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """The exponential of an offset plus weighted logarithms of the sources' predictions, less their centres."""

    kind: ClassVar[str] = "scaled"
    sources: tuple[Fitted, ...]
    weights: Numbers
    centres: Numbers
    offset: float

    def predict(self, features: Features) -> Numbers:
        """The weighted sources."""
        predicted: Numbers = np.exp(self.offset + (source_logs(self.sources, features) - self.centres) @ self.weights)
        return predicted

    def to_json(self) -> dict[str, Any]:
        """The sources with their kinds, and numbers."""
        return {
            "sources": [{"kind": source.kind, **source.to_json()} for source in self.sources],
            "weights": self.weights.tolist(),
            "centres": self.centres.tolist(),
            "offset": self.offset,
        }

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """What `to_json` wrote."""
        from hwnas.predict.models import fitted_from_json  # sources are of any kind

        return cls(
            sources=tuple(fitted_from_json(source) for source in data["sources"]),
            weights=numbers(data["weights"]),
            centres=numbers(data["centres"]),
            offset=float(data["offset"]),
        )


def source_logs(sources: tuple[Fitted, ...], features: Features) -> Numbers:
    """The logarithm of each source's prediction, a column per source."""
    return np.stack([np.log(source.predict(features)) for source in sources], axis=1)
