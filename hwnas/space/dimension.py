"""Dimensions: what is chosen once in a network, once in a stage or once in a block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwnas.errors import InputError

Kind = Literal["ordinal", "categorical"]
Scope = Literal["network", "stage", "block"]


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One gene: an index into `choices`.

    Neighbouring choices of an ordinal dimension are alike; a categorical one has no order. `stage` and `block`
    count from 0, `block` within its stage, and say which part of the network the choice belongs to.
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
            raise InputError(f"the choices of {self.name} must grow, it is ordinal", got=self.choices)

    @property
    def scope(self) -> Scope:
        """What the choice is made for."""
        if self.block is not None:
            return "block"
        return "network" if self.stage is None else "stage"


def per_network(name: str, choices: Sequence[float], *, kind: Kind = "ordinal") -> Dimension:
    """A dimension that is chosen once."""
    return Dimension(name=name, kind=kind, choices=tuple(choices))


def per_stage(name: str, choices: Sequence[Sequence[float]]) -> list[Dimension]:
    """An ordinal dimension that is chosen once a stage, from the choices of that stage."""
    return [Dimension(name=name, kind="ordinal", choices=tuple(row), stage=stage) for stage, row in enumerate(choices)]


def per_block(
    name: str, choices: Sequence[float], *, blocks: int, stage: int | None = None, kind: Kind = "ordinal"
) -> list[Dimension]:
    """A dimension that is chosen once a block."""
    values = tuple(choices)
    return [Dimension(name=name, kind=kind, choices=values, stage=stage, block=block) for block in range(blocks)]


def per_block_of_stages(name: str, choices: Sequence[Sequence[float]], *, slots: Sequence[int]) -> list[Dimension]:
    """A dimension that is chosen once a block, with the choices of the block's stage."""
    stages = enumerate(zip(choices, slots, strict=True))
    return [one for stage, (values, blocks) in stages for one in per_block(name, values, blocks=blocks, stage=stage)]
