"""Recipes: all settings of a training except the model, the data and the seed.

A recipe is read from TOML and changed by dotted keys such as `optimizer.lr`.
"""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from hwnas.config import Above, Between, from_mapping, require_valid, shown, to_mapping
from hwnas.errors import InputError
from hwnas.files import printable, read_text
from hwnas.space.space import require_literals
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.sampling import SamplingConfig

UnusedWeights = Literal["skip", "decay"]
"""Update of a weight tensor that no network of a step used on any rank. `skip` leaves it unchanged; `decay` updates it
with a gradient of zero, that is by weight decay and the remaining momentum, as PyTorch does with zeroed gradients. All
entries of a tensor that is used in part count as used."""

Sharing = Literal["default", "prefix", "cyclic", "bilateral", "slices", "none"]
"""Sharing of the weights of a supernet between choices. `default` is that of the strategy, or else of the family.
`prefix` (ViTAS): every width is the first channels of the widest; `cyclic` and `bilateral`: with the strategies of that
name. `slices` (GLiT): choices of a block are slices of one set of weights; `none`: each has weights of its own, as in
the paper."""

MAX_EPOCHS = 100_000
MAX_BATCH = 65_536


@dataclass(frozen=True)
class BelowOne:
    """Bounds of a share that may be 0 but not 1."""

    def check(self, value: float, *, where: str) -> None:
        """Raise InputError if the value is out of the bounds, or NaN."""
        if not 0 <= value < 1:
            raise InputError(f"{where} must be at least 0 and below 1", got=shown(value))


Share = Annotated[float, BelowOne()]
"""A share below 1: of old values in an average, of blocks that are dropped, of a label that is smoothed."""
Probability = Annotated[float, Between(0, 1)]
LearningRate = Annotated[float, Between(0, 100)]
Temperature = Annotated[float, Between(0.01, 1000)]
"""A temperature of softmax; logits divided by a smaller one overflow."""
Epochs = Annotated[int, Between(0, MAX_EPOCHS)]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and its settings."""

    name: str = "adamw"
    """Name of one of timm's optimizers that can be resumed exactly."""
    lr: Annotated[float, Above(0, 100)] = 1e-3
    """Peak learning rate, at batch size `lr_base_size`."""
    lr_base_size: Annotated[int, Between(0, MAX_BATCH)] = 0
    """Batch size that `lr` is scaled from linearly (Goyal et al. 2017); 0: `lr` is used as it is."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the moments, for the Adam family."""
    eps: Annotated[float, Above(0, 1)] = 1e-8
    """Term of the denominator, for the Adam family."""
    momentum: Share = 0.9
    """Momentum, for SGD and its family."""
    weight_decay: Annotated[float, Between(0, 10)] = 0.05
    layer_decay: Annotated[float, Above(0, 1)] = 1.0
    """Ratio of the learning rates of a block and the next one, so that the first layers of a pretrained model change
    least; 1: all have the same."""
    no_weight_decay: tuple[str, ...] = ()
    """Last parts of the names of tensors without weight decay; biases and tensors of one axis never have it."""

    def __post_init__(self) -> None:
        require_valid(self)

    def scaled_lr(self, batch_size: int) -> float:
        """Return the peak learning rate for a batch size."""
        return self.lr * batch_size / self.lr_base_size if self.lr_base_size else self.lr


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the steps: linear warm-up, then cosine annealing (Loshchilov and Hutter 2017) or constant."""

    name: Literal["cosine", "constant"] = "cosine"
    interval: Literal["step", "epoch"] = "step"
    """Change the rate with every step, or let all steps of an epoch have that of its first one (DeiT)."""
    warmup_epochs: Epochs = 5
    """Epochs of the warm-up, part of `epochs`."""
    warmup_prefix: bool = False
    """Begin the cosine at its top after the warm-up, as ViTAS does; else it begins with the training, as in timm, and
    the warm-up takes the place of its first epochs."""
    warmup_lr: LearningRate = 1e-6
    """Learning rate of the first step."""
    min_lr: LearningRate = 1e-5
    """Learning rate at the end of the cosine."""

    def __post_init__(self) -> None:
        require_literals(self)
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Mixup, CutMix and label smoothing, as in timm."""

    mixup: Annotated[float, Between(0, 100)] = 0.0
    """Alpha of mixup's Beta distribution; 0: no mixup."""
    cutmix: Annotated[float, Between(0, 100)] = 0.0
    """Alpha of CutMix's Beta distribution; 0: no CutMix."""
    prob: Probability = 1.0
    """Probability that a batch is mixed."""
    switch_prob: Probability = 0.5
    """Probability of CutMix rather than mixup if both are on."""
    smoothing: Share = 0.0
    """Label smoothing."""
    token_mixup: bool = False
    """ViT-ResNAS's token mixing instead of either: rectangles of whole patches are swapped in one half of a batch, the
    other half is mixed up, and every patch has a label of its own."""

    def __post_init__(self) -> None:
        require_valid(self)
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

    drop_path: Share = 0.0
    """Rate of stochastic depth in the last slot for a block; it grows linearly from 0 in the first."""
    clip_grad: Annotated[float, Between(0, 1e6)] = 0.0
    """Largest norm of the gradients; 0: no limit."""
    patch_loss: bool = False
    """Train a classifier of patches as well (ViT-ResNAS)."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class InitializationConfig:
    """Initial weights."""

    weights: Literal["published", "fan-in"] = "published"
    """`published`: as in the family's paper; `fan-in`: normal with a standard deviation of 1 / sqrt(inputs), with which
    small networks learn from the first epoch on."""
    token_std: Annotated[float, Above(0, 10)] = 0.5
    """Standard deviation of position embeddings and class token under `fan-in`."""

    def __post_init__(self) -> None:
        require_literals(self)
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Exponential moving average of the weights, which is what is evaluated and saved if it is on."""

    decay: Share = 0.0
    """Weight of the old average in each step; 0: no average."""
    warmup: bool = False
    """Begin with a small decay, as timm does, so that the first weights are soon forgotten."""

    def __post_init__(self) -> None:
        require_valid(self)


_COUNTING, _SHARED = ("sandwich", "elastic"), ("bilateral", "cyclic")
"""Strategies that train a number of random networks in addition to others."""


@dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """Networks that a step trains, and their losses."""

    name: str = "single"
    """Name of a strategy of `hwnas.train.strategies`."""
    num_networks: Annotated[int, Between(0, 1024)] = 2
    """Networks of a step on one process for `several`, 0: as many as `images_per_network` allows; random networks in
    addition to the largest and the smallest for `sandwich`."""
    images_per_network: Annotated[int, Between(0, MAX_BATCH)] = 0
    """Images of a step that one of the networks of `several` is trained on, which decides their number on a process
    (ViT-ResNAS: 64); 0: `num_networks` does."""
    temperature: Temperature = 1.0
    """Distillation temperature of `sandwich`."""
    outputs: Literal["all", "features"] = "all"
    """Outputs of the model that the networks of `elastic` learn: logits and features, or features alone, for which no
    label is needed."""
    sort_units: bool = False
    """Sort attention heads and hidden units by importance at the start of each epoch of widening (ViT-ResNAS)."""

    def __post_init__(self) -> None:
        require_literals(self)
        require_valid(self)
        if self.name == "several" and (self.num_networks > 0) == (self.images_per_network > 0):
            message = "strategy several must have either num_networks or images_per_network above 0"
            got = f"num_networks {self.num_networks}, images_per_network {self.images_per_network}"
            raise InputError(message, got=got, hint="strategy.images_per_network=0 strategy.num_networks=2")
        if self.name in _COUNTING and not self.num_networks:
            message = f"strategy {self.name} must have num_networks above 0"
            raise InputError(message, got=self.num_networks, hint="strategy.num_networks=2")

    def networks_of(self, images: int) -> int:
        """Return the number of networks that a process trains on so many images of a step."""
        return self.num_networks or max(1, images // self.images_per_network)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Distillation from a teacher (DeiT); the teacher itself is not part of a recipe."""

    labels: Literal["soft", "hard"] = "soft"
    """Learn the teacher's distribution (`soft`) or its best class (`hard`)."""
    smoothing: Share = 0.1
    """Label smoothing of hard labels."""
    weight: Probability = 0.5
    """Share of the distillation loss; the loss on labels has the rest."""
    temperature: Temperature = 1.0
    """Temperature of soft labels."""

    def __post_init__(self) -> None:
        require_literals(self)
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training except the model, the data and the seed."""

    epochs: Annotated[int, Between(0, MAX_EPOCHS)]
    """0: the weights of a pretrained model are kept as they are."""
    batch_size: Annotated[int, Between(1, MAX_BATCH)]
    """Images of one optimizer step, over all processes and accumulated parts."""
    grad_accum_steps: Annotated[int, Between(1, MAX_BATCH)] = 1
    """Microbatches that a process runs one after another in a step, to need less memory."""
    classifier_epochs: Epochs = 0
    """Epochs in which a pretrained model whose classifier was fitted to the data is trained on labels, before the
    networks inside it learn its outputs."""
    classifier_lr: LearningRate = 0.0
    """Peak learning rate in these epochs; 0: that of the others."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast precision of forward passes; fp16 scales losses and needs a GPU."""
    unused_weights: UnusedWeights = "skip"
    sharing: Sharing = "default"
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
        require_literals(self)
        require_valid(self)
        if self.sampling.widening_epochs > self.epochs:
            message = "sampling.widening_epochs must not be more than epochs, or some choices are never trained"
            got = f"{self.sampling.widening_epochs} of {self.epochs}"
            raise InputError(message, got=got, hint=f"sampling.widening_epochs={self.epochs // 4}")
        if self.schedule.warmup_epochs >= self.epochs > 0:
            message = "schedule.warmup_epochs must be less than epochs"
            got = f"{self.schedule.warmup_epochs} of {self.epochs}"
            raise InputError(message, got=got, hint=f"schedule.warmup_epochs={(self.epochs - 1) // 4}")

    @property
    def trains_classifier(self) -> bool:
        """True if a pretrained model with a new classifier is trained on labels first, which changes its features."""
        return self.classifier_epochs > 0 and self.strategy.outputs == "all"

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


def with_overrides(recipe: Recipe, overrides: Mapping[str, str], *, strategy_named: bool = False) -> Recipe:
    """Change values of a recipe by dotted keys.

    Args:
        recipe: Recipe to change.
        overrides: Values as in TOML, or plain text: `{"optimizer.lr": "1e-3"}`.
        strategy_named: The user has named the strategy of `recipe`, which then does not follow a change of the sharing.

    Raises:
        InputError: A key is unknown or names a table, or a value is not allowed.
    """
    tables = to_mapping(recipe)
    for key, text in overrides.items():
        *parents, last = key.split(".")
        table: Any = tables
        for parent in parents:
            table = table.setdefault(parent, {}) if isinstance(table, dict) else table
        if not isinstance(table, dict) or isinstance(table.get(last), dict):
            raise InputError("a setting of a recipe must be changed by its full name", got=key)
        table[last] = _parse_toml_value(text)
    given = {key.removeprefix("strategy.") for key in overrides if key.startswith("strategy.")}
    _adapt_strategy(tables, given=given, follows="sharing" in overrides and not strategy_named)
    return from_mapping(Recipe, tables)


def with_file(recipe: Recipe, path: Path) -> Recipe:
    """Change the values of a recipe that a TOML file has.

    Raises:
        InputError: The file is missing or no TOML, or a key or a value is not allowed.
    """
    text = read_text(path)
    try:
        changes = tomllib.loads(text)
        tables = _merged(to_mapping(recipe), changes)
        strategy = changes.get("strategy")
        given = strategy if isinstance(strategy, Mapping) else ()
        _adapt_strategy(tables, given=given, follows="sharing" in changes)
        return from_mapping(Recipe, tables)
    except RecursionError as error:
        raise InputError(f"{printable(path)} is nested too deeply to be a recipe") from error
    except ValueError as error:
        raise InputError(f"{printable(path)} cannot be read as TOML", got=error) from error
    except InputError as error:
        message = f"{printable(path)}: {error.message}"
        raise InputError(message, got=error.got, known=error.known, hint=error.hint) from error


def names_strategy(path: Path) -> bool:
    """Return True if a file that `with_file` accepts names a strategy."""
    return "name" in tomllib.loads(read_text(path)).get("strategy", {})


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


def _adapt_strategy(tables: Mapping[str, Any], *, given: Collection[str], follows: bool) -> None:
    """Adapt what a strategy inherits to what a change gives.

    Of `several`, the rule for the number of networks is cleared where the change gives the other rule alone. A strategy
    that counts networks itself takes its own number where the one before did not count them. One that stands for a
    sharing follows a change of the sharing if it may (`follows`) and the change does not name a strategy.
    """
    strategy, rules = tables["strategy"], ("num_networks", "images_per_network")
    if not isinstance(strategy, dict):
        return
    sharing = tables.get("sharing", "default")
    if strategy.get("name") in _SHARED and sharing != "default" and follows and "name" not in given:
        strategy["name"] = sharing if sharing in _SHARED else "single"
    if strategy.get("name") in _COUNTING and strategy.get("num_networks") == 0 and "num_networks" not in given:
        strategy["num_networks"] = StrategyConfig.num_networks
    if strategy.get("name") != "several":
        return
    for rule, other in (rules, rules[::-1]):
        if rule in given and other not in given and strategy[rule] != 0:
            strategy[other] = 0


def _parse_toml_value(text: str) -> Any:
    """Parse a value as TOML; text that is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _merged(tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tables)
    for key, value in overrides.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        merged[key] = value
    return merged
