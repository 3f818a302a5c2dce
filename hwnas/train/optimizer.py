"""Optimizer, learning-rate schedule and average of the weights: timm's, set up from a recipe."""

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
    """Split the trained parameters into a group with weight decay and one without."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("a model must have weights to train", got="none")
    decayed = [parameter for name, parameter in trained if not is_exempt_from_decay(name, parameter.ndim, config)]
    exempt = [parameter for name, parameter in trained if is_exempt_from_decay(name, parameter.ndim, config)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=config.name,
        num_epochs=max(recipe.epochs, 1),  # of a training without epochs, which makes no step
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
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
