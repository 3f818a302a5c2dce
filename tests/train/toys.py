"""Images that a tiny network learns in a few steps, and trainings on them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.space.space import AnySpace
from hwnas.train.data.loader import Batch
from hwnas.train.distributed import World
from hwnas.train.models import build_supernet
from hwnas.train.presets import MICRO
from hwnas.train.recipe import OptimizerConfig, Recipe, RegularizationConfig, ScheduleConfig
from hwnas.train.step import Stepper, StepResult
from hwnas.train.trainer import Trainer, TrainerConfig
from tests.strategies import TINY

AUTOFORMER, RESNAS, VITAS, VITAS_ANYWHERE, TWINS, GLIT, ELASTIC = (
    next(space for space in TINY if space.name == name)
    for name in (
        "tiny-autoformer",
        "tiny-resnas",
        "tiny-vitas-last",
        "tiny-vitas-anywhere",
        "tiny-twins",
        "tiny-glit-coded",
        "tiny-elastic",
    )
)
QUIET = TrainerConfig(threads=1)
EVERY_STEP = TrainerConfig(threads=1, checkpoint_minutes=0)


@dataclass
class ToyLoader:
    """Each class has a pattern of its own, with noise on it; the order is a function of the seed and the epoch."""

    images: Tensor
    labels: Tensor
    batch_size: int
    seed: int = 0
    world: World = field(default_factory=World)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size // self.world.size

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        size = self.batch_size * self.world.size
        for step in range(first, len(self)):
            mine = order[step * size : (step + 1) * size][self.world.rank :: self.world.size]
            yield Batch(self.images[mine], self.labels[mine], mine)


def toy_loader(space: AnySpace, recipe: Recipe, *, num_images: int = 96, world: World | None = None) -> ToyLoader:
    world = world or World()
    rng = torch.Generator().manual_seed(7)
    config = space.config
    labels = torch.arange(num_images) % config.num_classes
    patterns = torch.randn(config.num_classes, *config.input_shape, generator=rng)
    images = patterns[labels] + 0.3 * torch.randn(num_images, *config.input_shape, generator=rng)
    return ToyLoader(images, labels, recipe.microbatch_size(world.size), world=world)


def toy_recipe(**changes: Any) -> Recipe:
    """Six steps an epoch, three epochs, no clipping."""
    values: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 16,
        "optimizer": OptimizerConfig(lr=5e-3),
        "schedule": ScheduleConfig(warmup_epochs=0, min_lr=1e-4),
        "regularization": RegularizationConfig(),
    }
    return replace(MICRO, **{**values, **changes})


def toy_trainer(run: Path, space: AnySpace, recipe: Recipe, **options: Any) -> Trainer:
    model = options.pop("model", None) or build_supernet(space, recipe, seed=3)
    batches = options.pop("batches", None) or toy_loader(space, recipe, world=options.get("world"))
    settings: dict[str, Any] = {"seed": 5, "data": "toy", "config": QUIET, **options}
    run.mkdir(exist_ok=True)
    return Trainer(run, model, batches, recipe, **settings)


def stepper(space: AnySpace, recipe: Recipe, *, model: nn.Module | None = None, **options: Any) -> Stepper:
    model = model or build_supernet(space, recipe, seed=3)
    settings: dict[str, Any] = {"seed": 5, "steps_per_epoch": 6, "teacher": None, "world": World(), **options}
    return Stepper(model.train(), recipe, **settings)


def first_step(stepper: Stepper, batch: Batch) -> StepResult:
    return stepper.run(0, [batch], stepper.draw_networks(0))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different
