"""Which pictures to use."""

from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A set of pictures and how it is split."""

    name: str
    """`digits`, `digits-clutter`, a folder of pictures, a Parquet file or a folder of them, `torch/NAME`, `wds/DIR`."""
    root: Path | None = None
    """Where a `torch/` set lies."""
    download: bool = False
    """Whether a `torch/` set may be downloaded."""
    heldout: float | None = None
    """How much of the training pictures is held out: below 1 a share, else a number; None: what suits the set."""
    seed: int = 0
    """Of the split, and of pictures that are made; the test pictures do not depend on it."""
    limit: int | None = None
    """How many training pictures are used, balanced by class; None: all."""
    max_bad: int = 50
    """How many unreadable pictures are skipped before it is an error."""

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("data must have a name or a path", hint="--data digits-clutter")
        _require_heldout(self.heldout)
        if self.limit is not None and self.limit < 1:
            raise InputError("limit must be at least 1", got=self.limit)
        if self.max_bad < 0:
            raise InputError("max_bad must not be negative", got=self.max_bad)
        if self.seed < 0:
            raise InputError("the seed of the data must not be negative", got=self.seed)


def _require_heldout(amount: float | None) -> None:
    if amount is not None and not (0 < amount < 1 or (amount >= 1 and amount == int(amount))):
        raise InputError("heldout must be a share between 0 and 1 or a whole number of pictures", got=amount)
