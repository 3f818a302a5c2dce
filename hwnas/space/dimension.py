"""Dimensions of a search space: choices made once per network, per stage or per block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwnas.errors import InputError

Kind = Literal["ordinal", "categorical"]
Scope = Literal["network", "stage", "block"]


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One gene: an index into `choices`.

    Attributes:
        name: Name, which the dimensions of several stages or blocks share.
        kind: Whether the choices are ordered, so that neighbours are similar.
        choices: The values, in ascending order if ordinal.
        stage: Stage that the choice belongs to, from 0; None: the whole network.
        block: Block that the choice belongs to, from 0 within its stage; None: the whole stage or network.
    """

    name: str
    kind: Kind
    choices: tuple[float, ...]
    stage: int | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise InputError(f"{self.name} must have distinct choices", got=self.choices)
        if self.kind == "ordinal" and tuple(sorted(self.choices)) != self.choices:
            raise InputError(f"the ordinal choices of {self.name} must be in ascending order", got=self.choices)

    @property
    def scope(self) -> Scope:
        """Part of the network that the choice is made for."""
        if self.block is not None:
            return "block"
        return "network" if self.stage is None else "stage"


def per_network(name: str, choices: Sequence[float], *, kind: Kind = "ordinal") -> Dimension:
    """Make a dimension that is chosen once."""
    return Dimension(name=name, kind=kind, choices=tuple(choices))


def per_stage(name: str, choices: Sequence[Sequence[float]]) -> list[Dimension]:
    """Make ordinal dimensions that are chosen once per stage, from the choices of each stage."""
    return [Dimension(name=name, kind="ordinal", choices=tuple(row), stage=stage) for stage, row in enumerate(choices)]


def per_block(
    name: str, choices: Sequence[float], *, blocks: int, stage: int | None = None, kind: Kind = "ordinal"
) -> list[Dimension]:
    """Make dimensions that are chosen once per block."""
    values = tuple(choices)
    return [Dimension(name=name, kind=kind, choices=values, stage=stage, block=block) for block in range(blocks)]


def per_block_of_stages(name: str, choices: Sequence[Sequence[float]], *, slots: Sequence[int]) -> list[Dimension]:
    """Make dimensions that are chosen once per block, from the choices of the block's stage."""
    stages = enumerate(zip(choices, slots, strict=True))
    return [
        dimension
        for stage, (values, blocks) in stages
        for dimension in per_block(name, values, blocks=blocks, stage=stage)
    ]
