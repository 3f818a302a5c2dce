"""Recipes: all settings of a training except the model, the data and the seed.

A recipe is read from TOML and changed by dotted keys such as `optimizer.lr`.
"""

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
"""Update of a weight tensor that no network of a step used on any rank. `skip` leaves it unchanged; `decay` updates it
with a gradient of zero, that is by weight decay and the remaining momentum, as PyTorch does with zeroed gradients. All
entries of a tensor that is used in part count as used."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and its settings."""

    name: str = "adamw"
    """Name of one of timm's optimizers that can be resumed exactly."""
    lr: float = 1e-3
    """Peak learning rate, at batch size `lr_base_size`."""
    lr_base_size: int = 0
    """Batch size that `lr` is scaled from linearly (Goyal et al. 2017); 0: `lr` is used as it is."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the moments, for the Adam family."""
    eps: float = 1e-8
    """Term of the denominator, for the Adam family."""
    momentum: float = 0.9
    """Momentum, for SGD and its family."""
    weight_decay: float = 0.05
    no_weight_decay: tuple[str, ...] = ()
    """Last parts of the names of tensors without weight decay; biases and tensors of one axis never have it."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.lr_base_size < 0 or self.weight_decay < 0:
            got = f"lr {self.lr}, lr_base_size {self.lr_base_size}, weight_decay {self.weight_decay}"
            raise InputError("lr must be above 0, lr_base_size and weight_decay must not be below", got=got)

    def scaled_lr(self, batch_size: int) -> float:
        """Return the peak learning rate for a batch size."""
        return self.lr * batch_size / self.lr_base_size if self.lr_base_size else self.lr


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the steps: linear warm-up, then cosine annealing (Loshchilov and Hutter 2017) or constant."""

    name: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: int = 5
    """Epochs of the warm-up, part of `epochs`."""
    warmup_lr: float = 1e-6
    """Learning rate of the first step."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Mixup, CutMix and label smoothing, as in timm."""

    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; 0: no mixup."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution; 0: no CutMix."""
    prob: float = 1.0
    """Probability that a batch is mixed."""
    switch_prob: float = 0.5
    """Probability of CutMix rather than mixup if both are on."""
    smoothing: float = 0.0
    """Label smoothing."""
    token_mixup: bool = False
    """ViT-ResNAS's token mixing instead of either: rectangles of whole patches are swapped in one half of a batch, the
    other half is mixed up, and every patch has a label of its own."""

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
        """True if images are mixed at all."""
        return self.token_mixup or ((self.mixup > 0 or self.cutmix > 0) and self.prob > 0)


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Stochastic depth, gradient clipping and the auxiliary loss on patches."""

    drop_path: float = 0.0
    """Rate of stochastic depth in the last slot for a block; it grows linearly from 0 in the first."""
    clip_grad: float = 0.0
    """Largest norm of the gradients; 0: no limit."""
    patch_loss: bool = False
    """Train a classifier of patches as well (ViT-ResNAS)."""

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1 or self.clip_grad < 0:
            got = f"drop_path {self.drop_path}, clip_grad {self.clip_grad}"
            raise InputError("drop_path must be 0 to 1, clip_grad must not be negative", got=got)


@dataclass(frozen=True, kw_only=True)
class InitializationConfig:
    """Initial weights."""

    weights: Literal["published", "fan-in"] = "published"
    """`published`: as in the family's paper; `fan-in`: normal with a standard deviation of 1 / sqrt(inputs), with which
    small networks learn from the first epoch on."""
    token_std: float = 0.5
    """Standard deviation of position embeddings and class token under `fan-in`."""


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Exponential moving average of the weights, which is what is evaluated and saved if it is on."""

    decay: float = 0.0
    """Weight of the old average in each step; 0: no average."""
    warmup: bool = False
    """Begin with a small decay, as timm does, so that the first weights are soon forgotten."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InputError("the decay of an average must be 0 to 1", got=self.decay)


@dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """Networks that a step trains, and their losses."""

    name: str = "single"
    """Name of a strategy of `hwnas.train.strategies`."""
    num_networks: int = 2
    """Networks of a step on one process for `several`; random networks in addition to the largest and the smallest for
    `sandwich`."""
    temperature: float = 1.0
    """Distillation temperature of `sandwich`."""
    sort_units: bool = False
    """Sort attention heads and hidden units by importance at the start of each epoch of widening (ViT-ResNAS)."""

    def __post_init__(self) -> None:
        if self.num_networks < 1 or self.temperature <= 0:
            got = f"num_networks {self.num_networks}, temperature {self.temperature}"
            raise InputError("num_networks must be at least 1, temperature above 0", got=got)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Distillation from a teacher (DeiT); the teacher itself is not part of a recipe."""

    labels: Literal["soft", "hard"] = "soft"
    """Learn the teacher's distribution (`soft`) or its best class (`hard`)."""
    smoothing: float = 0.1
    """Label smoothing of hard labels."""
    weight: float = 0.5
    """Share of the distillation loss; the loss on labels has the rest."""
    temperature: float = 1.0
    """Temperature of soft labels."""

    def __post_init__(self) -> None:
        if not (0 <= self.weight <= 1 and 0 <= self.smoothing < 1 and self.temperature > 0):
            got = f"weight {self.weight}, smoothing {self.smoothing}, temperature {self.temperature}"
            raise InputError("weight and smoothing must be 0 to 1, temperature above 0", got=got)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training except the model, the data and the seed."""

    epochs: int
    batch_size: int
    """Images of one optimizer step, over all processes and accumulated parts."""
    grad_accum_steps: int = 1
    """Microbatches that a process runs one after another in a step, to need less memory."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast precision of forward passes; fp16 scales losses and needs a GPU."""
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
        """Return the number of images that one process runs at once.

        Raises:
            InputError: The batch size does not divide into equal parts for that many processes; mixing pairs images, so
                that parts must then be even.
        """
        parts = world_size * self.grad_accum_steps
        size = self.batch_size // parts
        if size * parts != self.batch_size or (self.mix.mixes and size % 2):
            message = "batch_size must divide into equal parts, of even size if images are mixed"
            got = f"{self.batch_size} for {world_size} processes and {self.grad_accum_steps} parts a step"
            raise InputError(message, got=got, hint=f"--batch {2 * parts * max(1, round(size / 2))}")
        return size


def with_overrides(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """Change values of a recipe by dotted keys.

    Args:
        recipe: Recipe to change.
        changes: Values as in TOML, or plain text: `{"optimizer.lr": "1e-3"}`.

    Raises:
        InputError: A key is unknown or names a table, or a value is not allowed.
    """
    tables = to_mapping(recipe)
    for key, text in changes.items():
        *parents, last = key.split(".")
        table: Any = tables
        for parent in parents:
            table = table.setdefault(parent, {}) if isinstance(table, dict) else table
        if not isinstance(table, dict) or isinstance(table.get(last), dict):
            raise InputError("a setting of a recipe must be changed by its full name", got=key)
        table[last] = _parse_toml_value(text)
    return from_mapping(Recipe, tables)


def with_file(recipe: Recipe, path: Path) -> Recipe:
    """Change the values of a recipe that a TOML file has.

    Raises:
        InputError: The file is missing or no TOML, or a key or a value is not allowed.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML", got=error) from error
    return from_mapping(Recipe, _merged(to_mapping(recipe), tables))


def diff_tables(first: Mapping[str, Any], second: Mapping[str, Any], *, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Compare two nested tables.

    Returns:
        Both values by dotted key where they differ; None stands for a missing one.
    """
    differences: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys((*first, *second)):
        old, new = first.get(key), second.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differences.update(diff_tables(old, new, prefix=f"{prefix}{key}."))
        elif old != new:
            differences[f"{prefix}{key}"] = (old, new)
    return differences


def _parse_toml_value(text: str) -> Any:
    """Parse a value as TOML; text that is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merged(tables: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tables)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        merged[key] = value
    return merged
