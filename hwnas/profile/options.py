"""What a user asks a campaign for, and the command line that asks for it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.config import shown
from hwnas.errors import UsageError
from hwnas.metrics import PRECISIONS
from hwnas.profile.lookup import FOLDER
from hwnas.profile.timing import PAIRS

AUTO = "auto"
"""The best runtime that is present."""

DEFAULT_SAMPLES = 100
"""Networks of the space, where neither a number nor a time is given."""

_MIN_PAIRS = 8

_SHOWN: dict[str, str] = {
    "space": "--space",
    "device": "--device",
    "samples": "--samples",
    "minutes": "--minutes",
    "batches": "--batch",
    "precision": "--precision",
    "runtime": "--runtime",
    "threads": "--threads",
    "pairs": "--pairs",
    "seed": "--seed",
    "repeats": "--repeats",
    "also": "--also",
    "out": "--out",
}


@dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """Which networks are measured, where, how, and how many."""

    space: str = "autoformer-tiny"
    device: str = "auto"
    samples: int | None = None
    """Networks of the space beside the published ones; None: as many as the time allows, or 100."""
    minutes: float | None = None
    batches: tuple[int, ...] = (1,)
    precision: str = "fp32"
    runtime: str = AUTO
    threads: int = 1
    pairs: int = PAIRS
    """Runs of each network, in strict turn with the reference network."""
    seed: int = 0
    repeats: int | None = None
    """Networks measured twice; None: one in eight, at least 12."""
    also: tuple[str, ...] = ()
    """Models beside those of the space: `timm:NAME` or `timm:NAME@SIZE`."""
    landmarks: bool = True
    """Whether DeiT-Ti and DeiT-S are measured too."""
    out: Path = Path(FOLDER)

    def __post_init__(self) -> None:
        _require_at_least("--samples", self.samples, 0)
        _require_at_least("--repeats", self.repeats, 0)
        _require_at_least("--threads", self.threads, 1)
        _require_at_least("--pairs", self.pairs, _MIN_PAIRS)
        _require_at_least("--seed", self.seed, 0)
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise UsageError("--minutes must be a time above 0", got=self.minutes)
        if self.samples is not None and self.minutes is not None:
            raise UsageError("--samples and --minutes must not both be given", hint="one of them")
        if not self.batches or min(self.batches) < 1 or len(set(self.batches)) < len(self.batches):
            raise UsageError("--batch must be different numbers above 0", got=shown(self.batches), hint="--batch 1,8")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r} is not known", got=self.precision, known=PRECISIONS)

    @property
    def num_samples(self) -> int:
        """The networks of the space that are asked for, where no time is."""
        return DEFAULT_SAMPLES if self.samples is None else self.samples

    def command(self) -> tuple[str, ...]:
        """The command line that asks for this, without what is a default."""
        default = CampaignOptions()
        words = ["hwnas", "profile"]
        for name, option in _SHOWN.items():
            value = getattr(self, name)
            if name in ("space", "device") or value != getattr(default, name):
                words += _words(option, value)
        return (*words, *(() if self.landmarks else ("--no-landmarks",)))


def command_text(command: tuple[str, ...]) -> str:
    """A command as it is typed into a shell."""
    return shlex.join(command)


def _words(option: str, value: Any) -> list[str]:
    if option == "--also":
        return [word for item in value for word in (option, item)]
    if isinstance(value, tuple):
        return [option, ",".join(map(str, value))]
    return [option, f"{value:g}" if isinstance(value, float) else str(value)]


def _require_at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{option} must be at least {least}", got=value)
