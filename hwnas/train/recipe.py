"""A recipe: every setting of a training, as one frozen value."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hwnas.config import from_mapping, to_mapping
from hwnas.errors import InputError
from hwnas.space.space import require_literals
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.sampling import SamplingConfig

UnusedWeights = Literal["skip", "decay"]
"""What a step does to a tensor of weights that no network of the step used, on any rank: nothing at all, or what the
optimizer does with a gradient of zero, which is weight decay and what is left of the momentum. Entries of a tensor
that is used in part count as used."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, one of timm's by name."""

    name: str = "adamw"
    lr: float = 1e-3
    lr_base_size: int = 0
    """`lr` is meant for batches of this size and grows in proportion; 0: it is meant for the batch that there is."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of the Adam family."""
    eps: float = 1e-8
    momentum: float = 0.9
    """Of SGD and its family."""
    weight_decay: float = 0.05
    no_weight_decay: tuple[str, ...] = ()
    """Tensors without weight decay by the last part of their name, besides biases and all of one axis."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.lr_base_size < 0 or self.weight_decay < 0:
            got = f"lr {self.lr}, lr_base_size {self.lr_base_size}, weight_decay {self.weight_decay}"
            raise InputError("lr must be above 0, lr_base_size and weight_decay must not be below", got=got)

    def scaled_lr(self, batch_size: int) -> float:
        """The learning rate for batches of this size."""
        return self.lr * batch_size / self.lr_base_size if self.lr_base_size else self.lr


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the steps, one of timm's schedules by name."""

    name: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: int = 5
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Images mixed with one another, and softened labels."""

    mixup: float = 0.0
    """Of the Beta distribution of the share; 0: no mixup."""
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5
    """The probability of CutMix where both are on."""
    smoothing: float = 0.0
    token_mixup: bool = False
    """ViT-ResNAS's instead of either: half of a batch has rectangles of whole patches swapped, half is mixed up, and
    every patch has a label of its own."""

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or not 0 <= self.smoothing < 1:
            got = f"mixup {self.mixup}, cutmix {self.cutmix}, smoothing {self.smoothing}"
            raise InputError("mixup and cutmix must not be negative, smoothing must be 0 to 1", got=got)
        if not (0 <= self.prob <= 1 and 0 <= self.switch_prob <= 1):
            raise InputError(
                "prob and switch_prob must be from 0 to 1", got=f"prob {self.prob}, switch_prob {self.switch_prob}"
            )
        if self.token_mixup and not (self.mixup and self.cutmix):
            got = f"mixup {self.mixup}, cutmix {self.cutmix}"
            raise InputError("token_mixup needs both mixup and cutmix above 0", got=got)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed at all."""
        return self.token_mixup or ((self.mixup > 0 or self.cutmix > 0) and self.prob > 0)


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """What holds a training back."""

    drop_path: float = 0.0
    """The rate of stochastic depth in the last slot."""
    clip_grad: float = 0.0
    """The largest norm of the gradients; 0: no limit."""
    patch_loss: bool = False
    """Train the classifier of patches too, in the families that can have one."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1 or self.clip_grad < 0:
            got = f"drop_path {self.drop_path}, clip_grad {self.clip_grad}"
            raise InputError("drop_path must be 0 to 1, clip_grad must not be negative", got=got)


@dataclass(frozen=True, kw_only=True)
class InitializationConfig:
    """Where weights start."""

    weights: Literal["published", "fan-in"] = "published"
    """As the family's paper, or normal with a deviation of 1 / sqrt(inputs), which trains small networks at once."""
    token_std: float = 0.5
    """Of positions and class token under fan-in."""


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """A moving average of the weights."""

    decay: float = 0.0
    """0: none."""
    warmup: bool = False
    """Begin with a small decay, as timm does."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InputError("the decay of an average must be 0 to 1", got=self.decay)


@dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """Which networks a step trains, and on what; the names are those of `hwnas.train.strategies`."""

    name: str = "single"
    num_networks: int = 2
    """Of `several`: networks in one step on one process; of `sandwich`: random ones besides largest and smallest."""
    temperature: float = 1.0
    """Of the labels that `sandwich` takes from the largest network."""
    sort_units: bool = False
    """Sort heads and hidden units by importance at the start of each epoch of widening."""

    def __post_init__(self) -> None:
        if self.num_networks < 1 or self.temperature <= 0:
            got = f"num_networks {self.num_networks}, temperature {self.temperature}"
            raise InputError("num_networks must be at least 1, temperature above 0", got=got)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """How a teacher's answers join the labels; which teacher it is, is not part of a recipe."""

    labels: Literal["soft", "hard"] = "soft"
    """Its distribution, or its best class."""
    smoothing: float = 0.1
    """Of hard labels."""
    weight: float = 0.5
    """Of its part in the loss."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.weight <= 1 and 0 <= self.smoothing < 1 and self.temperature > 0):
            got = f"weight {self.weight}, smoothing {self.smoothing}, temperature {self.temperature}"
            raise InputError("weight and smoothing must be 0 to 1, temperature above 0", got=got)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a training but the space, the data and the seed."""

    epochs: int
    batch_size: int
    """Images in one step, over all processes and all parts of an accumulated step."""
    grad_accum_steps: int = 1
    """Parts of a step that are run one after another."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    unused_weights: UnusedWeights = "skip"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    initialization: InitializationConfig = field(default_factory=InitializationConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        for part in (self, self.schedule, self.initialization, self.sampling, self.teacher):
            require_literals(part)
        if min(self.epochs, self.batch_size, self.grad_accum_steps) < 1:
            got = f"epochs {self.epochs}, batch_size {self.batch_size}, grad_accum_steps {self.grad_accum_steps}"
            raise InputError("epochs, batch_size and grad_accum_steps must be at least 1", got=got)
        if self.sampling.widening_epochs > self.epochs:
            message = "sampling.widening_epochs must not be more than epochs, or some choices are never trained"
            got = f"{self.sampling.widening_epochs} of {self.epochs}"
            raise InputError(message, got=got, hint=f"sampling.widening_epochs={self.epochs // 4}")
        if self.schedule.name == "cosine" and not 0 <= self.schedule.warmup_epochs < self.epochs:
            message = "schedule.warmup_epochs must be less than epochs"
            got = f"{self.schedule.warmup_epochs} of {self.epochs}"
            raise InputError(message, got=got, hint=f"schedule.warmup_epochs={(self.epochs - 1) // 4}")

    def microbatch_size(self, world_size: int) -> int:
        """The images that one process takes at once."""
        parts = world_size * self.grad_accum_steps
        size = self.batch_size // parts
        if size * parts != self.batch_size or (self.mix.mixes and size % 2):
            message = "batch_size must divide into equal parts, even ones where images are mixed"
            got = f"{self.batch_size} for {world_size} processes and {self.grad_accum_steps} parts a step"
            raise InputError(message, got=got, hint=f"--batch {2 * parts * max(1, round(size / 2))}")
        return size


def with_overrides(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """The recipe with values changed by dotted keys: `{"optimizer.lr": "1e-3"}`."""
    tables = to_mapping(recipe)
    for key, text in changes.items():
        *parents, last = key.split(".")
        table: Any = tables
        for parent in parents:
            table = table.setdefault(parent, {}) if isinstance(table, dict) else table
        if not isinstance(table, dict) or isinstance(table.get(last), dict):
            raise InputError("a setting of a recipe must be changed by its whole name", got=key)
        table[last] = _value(text)
    return from_mapping(Recipe, tables)


def with_file(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the values that a TOML file has, which may be some or all of them."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not TOML that can be read", got=error) from error
    return from_mapping(Recipe, _merged(to_mapping(recipe), tables))


def diff_tables(recipe: Mapping[str, Any], other: Mapping[str, Any], *, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two plain tables differ: both values by dotted key, None where there is none."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys((*recipe, *other)):
        one, two = recipe.get(key), other.get(key)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            found.update(diff_tables(one, two, prefix=f"{prefix}{key}."))
        elif one != two:
            found[f"{prefix}{key}"] = (one, two)
    return found


def _value(text: str) -> Any:
    """A value as TOML has it; what is no TOML is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merged(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tables)
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return merged
