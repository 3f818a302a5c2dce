"""Optimizer, learning-rate schedule and average of the weights: timm's, set up from a recipe."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from hwnas.errors import InputError, unknown
from hwnas.train.recipe import EmaConfig, OptimizerConfig, Recipe, ScheduleConfig

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler
    from timm.utils.model_ema import ModelEmaV3

RESUMABLE = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adopt",
    "adoptw",
    "lion",
    "momentum",
    "muon",
    "nadam",
    "nadamw",
    "nesterov",
    "novograd",
    "radam",
    "radamw",
    "rmsprop",
    "rmsproptf",
    "sgd",
    "sgdw",
)
"""Optimizers whose full state is in a checkpoint, as tests show of each; some others keep state elsewhere."""

_FUSED = ("adam", "adamw")
"""Optimizers of torch whose fused implementation runs on every device; on a CPU it is four times as fast."""
_ADAM_FAMILY = ("adam", "nadam", "radam", "lamb", "adan", "adopt")


_FRONT = frozenset(
    ("stem", "patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre", "class_token", "position")
)
"""Parts of the names of parameters in front of the blocks, here and in timm."""


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, batch_size: int) -> Optimizer:
    """Create the optimizer of a model.

    Args:
        model: Model to train.
        config: Optimizer of the recipe.
        batch_size: Images of one step, which the learning rate is scaled by.

    Raises:
        InputError: The optimizer is unknown, cannot be resumed exactly or does not take the settings.
    """
    from timm.optim._optim_factory import create_optimizer_v2, list_optimizers

    if config.name not in [str(name) for name in list_optimizers()]:
        raise unknown("optimizer", config.name, RESUMABLE)
    if config.name not in RESUMABLE:
        message = f"a training must be resumable exactly, which it is with {', '.join(RESUMABLE)}"
        raise InputError(message, got=config.name, hint="optimizer.name=adamw")
    options: dict[str, Any] = {}
    if any(name in config.name for name in _ADAM_FAMILY):
        options |= {"eps": config.eps, "betas": config.betas}
    if config.name in _FUSED:
        options["fused"] = True
    groups, lr = parameter_groups(model, config), config.scaled_lr(batch_size)
    try:
        return create_optimizer_v2(groups, opt=config.name, lr=lr, momentum=config.momentum, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {config.name} must accept the settings of the recipe", got=error) from error


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split the trained parameters into groups by weight decay and, under layer decay, by layer, the last one first."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("a model must have weights to train", got="none")
    layers = _layers([name for name, _ in trained]) if config.layer_decay < 1 else [0] * len(trained)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for (name, parameter), layer in zip(trained, layers, strict=True):
        exempt = is_exempt_from_decay(name, parameter.ndim, config)
        groups.setdefault((max(layers) - layer, exempt), []).append(parameter)
    # timm's schedules multiply the rate of a group by its `lr_scale`. The first group has the full rate.
    return [
        {"params": params, "weight_decay": 0.0 if exempt else config.weight_decay}
        | ({} if config.layer_decay == 1 else {"lr_scale": config.layer_decay**distance})
        for (distance, exempt), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def _layers(names: Sequence[str]) -> list[int]:
    """Return the layer of each parameter: 0 in front of the blocks, 1 and up in them, the last one behind them.

    Raises:
        InputError: The model has no list of blocks.
    """
    parts = [name.split(".") for name in names]
    slots = [_slot(path) for path in parts]
    known = [slot for slot in slots if slot is not None]
    if not known:
        raise InputError("layer_decay needs a model with blocks", got="none", hint="optimizer.layer_decay=1")
    last = max(known) + 2
    return [
        slot + 1 if slot is not None else 0 if set(path) & _FRONT else last
        for path, slot in zip(parts, slots, strict=True)
    ]


def _slot(path: Sequence[str]) -> int | None:
    """Return the number of the block in a parameter's path."""
    return next((int(part) for before, part in pairwise(path) if before == "blocks" and part.isdecimal()), None)


def is_exempt_from_decay(name: str, axes: int, config: OptimizerConfig) -> bool:
    """Return True if a parameter has no weight decay: biases, norms and those that the recipe names."""
    last = name.rpartition(".")[2]
    return axes <= 1 or last == "bias" or last in config.no_weight_decay


def make_schedule(optimizer: Optimizer, recipe: Recipe, *, steps_per_epoch: int) -> "Scheduler":
    """Create the learning-rate schedule of an optimizer.

    Returns:
        timm's scheduler; call `step_update(step)` before each step. The rate is a function of the step alone, so that
        nothing of it is stored in checkpoints.
    """
    from timm.scheduler.scheduler_factory import create_scheduler_v2

    config: ScheduleConfig = recipe.schedule
    annealed = recipe.epochs - config.warmup_epochs * config.warmup_prefix
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=config.name,
        num_epochs=max(annealed, 1),  # of a training without epochs, which makes no step
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
        warmup_prefix=config.warmup_prefix,
        min_lr=config.min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule  # type: ignore[no-any-return]


def make_ema(model: nn.Module, config: EmaConfig) -> "ModelEmaV3 | None":
    """Create the exponential moving average of a model's weights, if the recipe has one."""
    if not config.decay:
        return None
    from timm.utils.model_ema import ModelEmaV3

    return ModelEmaV3(model, decay=config.decay, use_warmup=config.warmup)
