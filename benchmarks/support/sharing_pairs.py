"""The pairs of sharing strategies that are compared: a strategy of one of the systems, and its plain alternative."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.registry import Registry
from hwnas.space import SPACES
from hwnas.space.glit import GROUPS, Glit
from hwnas.space.space import AnySpace, Genomes
from hwnas.train.recipe import StrategyConfig


class AttentionAlone(Glit):
    """GLiT's space, of which only networks without the locality module are drawn."""

    def sample(self, rng: np.random.Generator, count: int) -> Genomes:
        """Draw canonical genomes, all channels in attention."""
        rows = super().sample(rng, count)
        drawn = rng.integers(0, self._counts, size=rows.shape, dtype=np.int16)
        drawn[:, self.columns("groups")] = GROUPS
        return self.repair(drawn)


@dataclass(frozen=True, kw_only=True)
class Side:
    """A space, how its networks are trained together, how they share weights."""

    name: str
    space: AnySpace
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    sharing: Mapping[str, Any] = field(default_factory=dict)


_GLIT = SPACES.get("glit-micro")
_AUTOFORMER, _RESNAS, _VITAS = (SPACES.get(f"{family}-micro") for family in ("autoformer", "resnas", "vitas"))
PAIRS: Registry[tuple[Side, Side]] = Registry(
    "pair",
    [
        (
            "autoformer",
            (
                Side(name="sandwich", space=_AUTOFORMER, strategy=StrategyConfig(name="sandwich", num_networks=1)),
                Side(name="one network a step", space=_AUTOFORMER),
            ),
        ),
        (
            "resnas",
            (
                Side(
                    name="two networks a step", space=_RESNAS, strategy=StrategyConfig(name="several", num_networks=2)
                ),
                Side(name="one network a step", space=_RESNAS),
            ),
        ),
        (
            "vitas",
            (
                Side(name="ring", space=_VITAS, sharing={"sharing": "cyclic"}),
                Side(name="prefix", space=_VITAS, sharing={"sharing": "prefix"}),
            ),
        ),
        (
            "glit",
            (
                Side(name="slices", space=_GLIT, sharing={"share": "slices"}),
                Side(name="weights of their own", space=_GLIT, sharing={"share": "none"}),
            ),
        ),
        (
            "locality",
            (
                Side(name="with locality", space=_GLIT),
                Side(name="attention alone", space=AttentionAlone(name="glit-micro-attention", config=_GLIT.config)),
            ),
        ),
    ],
)
