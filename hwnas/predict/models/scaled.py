"""Other devices' models as a basis for a new one: their answers, weighted in the logarithm.

The answers are columns of the features (`with_answers`), each made under the conditions of its own device.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hwnas.predict.arrays import ContiguousArrays, Numbers
from hwnas.predict.features.table import Features, answer_name
from hwnas.predict.models.model import Plain, names, numbers


@dataclass(frozen=True, kw_only=True)
class Scaled(ContiguousArrays):
    """The exponential of an offset plus weighted logarithms of the sources' answers, less their centres."""

    kind: ClassVar[str] = "scaled"
    sources: tuple[str, ...]
    weights: Numbers
    centres: Numbers
    offset: float

    def predict(self, features: Features) -> Numbers:
        """The weighted sources."""
        predicted: Numbers = np.exp(self.offset + (source_logs(self.sources, features) - self.centres) @ self.weights)
        return predicted

    def to_json(self) -> dict[str, Any]:
        """The names of the sources, and numbers."""
        return {
            "sources": list(self.sources),
            "weights": self.weights.tolist(),
            "centres": self.centres.tolist(),
            "offset": self.offset,
        }

    @classmethod
    def from_json(cls, data: Plain) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            sources=names(data["sources"]),
            weights=numbers(data["weights"]),
            centres=numbers(data["centres"]),
            offset=float(data["offset"]),
        )


def source_logs(sources: tuple[str, ...], features: Features) -> Numbers:
    """The logarithm of each source's answer, a column per source."""
    return features.shapes_by([answer_name(source) for source in sources])
