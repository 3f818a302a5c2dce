"""Options of a measuring campaign, and the command line that states them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.config import require_valid, shown
from hwnas.data_paths import PROFILES
from hwnas.errors import UsageError
from hwnas.metrics import MAX_BATCH, MAX_THREADS, PRECISIONS, unknown_precision
from hwnas.profile.statistics import MIN_RUNS
from hwnas.profile.timing import PAIRS
from hwnas.space import SPACES
from hwnas.space.space import AnySpace

AUTO = "auto"
"""The preferred runtime that is available."""

DEFAULT_SAMPLES = 100
"""Networks of the space if neither a number nor a time is given."""

TASK_SAMPLES = 40
"""The same for detection and segmentation, whose graphs take seconds until their parts have been seen."""

MAX_PAIRS = 100_000
"""Largest number of runs of each network."""

MAX_IMAGE_SIZE = 16_384

MAX_CLASSES = 1_000_000

MAX_NETWORKS = 100_000
"""Largest number of networks of a campaign."""

_OPTION_NAMES = {
    "space": "--space",
    "image_size": "--image-size",
    "classes": "--classes",
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
    "extra_models": "--extra-model",
    "out": "--out",
}
_NOT_OF_LANDMARKS = ("samples", "minutes", "image_size", "classes")
"""Options that choose networks of a space, which landmarks are not."""


@dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """Options of a campaign: which networks are measured, how many, on which device and how.

    Raises:
        UsageError: An option is out of range, or two options contradict each other.
    """

    space: str = "autoformer-tiny"
    image_size: int | None = None
    """Side of the images that networks of the space take; None: the space's own."""
    classes: int | None = None
    """Classes that networks of the space answer; None: the space's own number."""
    device: str = "auto"
    samples: int | None = None
    """Networks of the space in addition to the published ones; None: as many as the time allows, or 100,
    for detection and segmentation 40."""
    minutes: float | None = None
    """Time limit, in place of a number of networks."""
    batches: tuple[int, ...] = (1,)
    peak_batch: bool = False
    """Measure at the batch size from which the images per second of DeiT-Ti no longer rise as well."""
    precision: str = "fp32"
    runtime: str = AUTO
    threads: int = 1
    """Threads of a CPU runtime."""
    pairs: int = PAIRS
    """Runs of each network, in strict alternation with the reference network."""
    seed: int = 0
    """Seed of networks, weights, images and order."""
    repeats: int | None = None
    """Networks measured twice; None: one in eight, at least 12; of landmarks none."""
    extra_models: tuple[str, ...] = ()
    """Timm models to measure as well: `timm:NAME` or `timm:NAME@SIZE`."""
    reference_networks: bool = True
    """Measure DeiT-Ti and DeiT-S as well."""
    landmarks: bool = False
    """Measure the landmark networks, which are models of timm, instead of networks of a space."""
    out: Path = Path(PROFILES)
    """Folder of profiles."""

    def __post_init__(self) -> None:
        require_valid(self)
        bounds = {
            "image_size": (1, MAX_IMAGE_SIZE),
            "classes": (1, MAX_CLASSES),
            "samples": (0, MAX_NETWORKS),
            "repeats": (0, MAX_NETWORKS),
            "threads": (1, MAX_THREADS),
            "pairs": (MIN_RUNS, MAX_PAIRS),
            "seed": (0, 2**32 - 1),
        }
        for name, (lowest, highest) in bounds.items():
            value = getattr(self, name)
            if value is not None and not (type(value) is int and lowest <= value <= highest):
                raise UsageError(
                    f"{_OPTION_NAMES[name]} must be a whole number from {lowest} to {highest}", got=shown(value)
                )
        if self.minutes is not None and not 0 < self.minutes <= 1_000_000:
            raise UsageError("--minutes must be a time above 0, at most 1000000", got=self.minutes)
        if self.samples is not None and self.minutes is not None:
            raise UsageError("--samples and --minutes exclude each other", hint="give one of them")
        unused = [_OPTION_NAMES[name] for name in _NOT_OF_LANDMARKS if getattr(self, name) is not None]
        unused += [] if self.reference_networks else ["--no-reference-networks"]
        if self.landmarks and unused:
            message = "--landmarks measures networks that are fixed"
            raise UsageError(message, got=" ".join(unused), hint="--extra-model timm:NAME adds others")
        in_bounds = all(type(batch) is int and 1 <= batch <= MAX_BATCH for batch in self.batches)
        if not (self.batches or self.peak_batch) or not in_bounds or len(set(self.batches)) < len(self.batches):
            message = f"--batch must be different numbers from 1 to {MAX_BATCH}"
            raise UsageError(message, got=shown(self.batches), hint="--batch 1,8")
        if self.precision not in PRECISIONS:
            raise unknown_precision(self.precision)

    @property
    def measured_space(self) -> AnySpace:
        """The space, with networks of the requested image size and number of classes."""
        space: AnySpace = SPACES.get(self.space)
        return space.adapted(image_size=self.image_size, num_classes=self.classes)

    @property
    def num_samples(self) -> int:
        """Number of networks of the space, if no time is given."""
        if self.samples is not None:
            return self.samples
        return DEFAULT_SAMPLES if SPACES.get(self.space).config.task == "classification" else TASK_SAMPLES

    def command(self) -> tuple[str, ...]:
        """Return the equivalent command line, without defaults."""
        default = CampaignOptions()
        words = ["hwnas", "profile"]
        if self.landmarks:
            words.append("--landmarks")
        for name, option in _OPTION_NAMES.items():
            if name == "space" and self.landmarks:
                continue
            value = getattr(self, name)
            if name == "batches" and self.peak_batch:
                value = (*value, "peak")
            if name in ("space", "device") or value != getattr(default, name):
                words += _option_words(option, value)
        return (*words, *(() if self.reference_networks else ("--no-reference-networks",)))


def _option_words(option: str, value: Any) -> list[str]:
    if option == "--extra-model":
        return [word for item in value for word in (option, item)]
    if isinstance(value, tuple):
        return [option, ",".join(map(str, value))]
    return [option, f"{value:g}" if isinstance(value, float) else str(value)]
