"""One step of a training: its networks, its loss, its update.

A step is a function of the weights, the seed and its number: networks, mixing and drop path draw from generators that
are seeded for it alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwnas.supernet.sorting import sort_units
from hwnas.train.checkpoint import TrainState
from hwnas.train.data.loader import Batch
from hwnas.train.distributed import World
from hwnas.train.losses import Microbatch
from hwnas.train.machine import autocast
from hwnas.train.mixing import make_mixer
from hwnas.train.models import num_classes_of, patches_per_side
from hwnas.train.optimizer import make_ema, make_optimizer, make_schedule
from hwnas.train.recipe import Recipe
from hwnas.train.seeds import generator, seed_torch, torch_seed
from hwnas.train.strategies import StepNetworks, make_strategy
from hwnas.train.teacher import answers


@dataclass(frozen=True)
class StepResult:
    """What a step came to."""

    loss: float
    """The mean over all processes."""
    lr: float
    grad_norm: float | None
    """Before it was clipped; None: it is not known under fp16 without clipping."""
    trouble: str = ""
    """What is no finite number; then the weights were not updated."""


class Stepper:
    """Trains a model in place, step by step."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        seed: int,
        steps_per_epoch: int,
        teacher: nn.Module | None,
        world: World,
    ) -> None:
        autocast(recipe.precision, world.device)  # a precision that cannot be had is an error now
        self.model, self.recipe, self.seed, self.world = model.to(world.device), recipe, seed, world
        self.teacher = None if teacher is None else teacher.to(world.device)
        self.strategy = make_strategy(model, recipe, seed=seed)
        self.scaler = torch.amp.GradScaler("cuda", enabled=recipe.precision == "fp16")
        self._steps_per_epoch = steps_per_epoch
        self._mixer = make_mixer(recipe.mix, num_classes=num_classes_of(model), patches=patches_per_side(model))
        self._optimizer = make_optimizer(model, recipe.optimizer, batch_size=recipe.batch_size)
        self._schedule = make_schedule(self._optimizer, recipe, steps_per_epoch=steps_per_epoch)
        self._average = make_ema(model, recipe.ema)

    @property
    def parts(self) -> TrainState:
        """What a checkpoint keeps."""
        average = None if self._average is None else self._average.module
        return TrainState(model=self.model, optimizer=self._optimizer, average=average)

    def networks(self, step: int) -> StepNetworks:
        """The networks of a step."""
        rank = 0 if self.strategy.same_on_all_ranks else self.world.rank
        rng = generator(self.seed, "networks", step, rank)
        return self.strategy.networks(rng, epoch=step // self._steps_per_epoch)

    def run(self, step: int, batches: Sequence[Batch], networks: StepNetworks) -> StepResult:
        """Do one step, on the images of its parts."""
        if step % self._steps_per_epoch == 0:
            self._sort_units(epoch=step // self._steps_per_epoch)
        self._schedule.step_update(step)
        losses = [self._part(step, number, batch, networks) for number, batch in enumerate(batches)]
        self.world.finish_gradients(self.model.parameters(), unused_weights=self.recipe.unused_weights)
        self.world.average_buffers(self.model)
        norm = self._clip()
        loss, everything = self._agreed(losses)
        trouble = self._trouble(loss, everything, norm)
        if not trouble:
            self._update(step)
        return StepResult(loss, self._optimizer.param_groups[0]["lr"], norm, trouble)

    def _update(self, step: int) -> None:
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update(self.model, step=step + 1)

    def _agreed(self, losses: Sequence[Tensor]) -> tuple[float, float]:
        """The loss to report and the sum of all losses; a sum that is no number is none on any process."""
        loss, everything = torch.stack([torch.stack([part[0], part.sum()]) for part in losses]).mean(0).tolist()
        loss, everything = self.world.mean([loss, everything])
        return loss, everything

    def _trouble(self, loss: float, everything: float, norm: float | None) -> str:
        if not math.isfinite(loss):
            return f"the loss must be finite, but that of step {{step}} is {loss}"
        if not math.isfinite(everything):
            return f"all losses must be finite, but the sum of those of step {{step}} is {everything}"
        if norm is not None and not math.isfinite(norm) and not self.scaler.is_enabled():
            return f"gradients must be finite, but the norm of those of step {{step}} is {norm}"
        return ""

    def _part(self, step: int, number: int, batch: Batch, networks: StepNetworks) -> Tensor:
        """Forward and backward of one part of a step; its losses, the one to report first."""
        lesson = self._lesson(batch.to(self.world.device), counters=(step, number, self.world.rank))
        losses = self.strategy.losses(lesson, networks)
        reported: list[Tensor] = []
        while True:
            with autocast(self.recipe.precision, self.world.device):
                loss = next(losses, None)
            if loss is None:
                return torch.stack(reported)
            self.scaler.scale(loss / self.recipe.grad_accum_steps).backward()  # type: ignore[no-untyped-call]
            reported.append(loss.detach())

    def _lesson(self, batch: Batch, *, counters: tuple[int, int, int]) -> Microbatch:
        mixed = self._mixer(batch.images, batch.labels, generator(self.seed, "mixing", *counters))
        seed_torch(torch_seed(self.seed, "drop path", *counters), self.world.device)
        if self.teacher is None:
            return Microbatch(mixed)
        with autocast(self.recipe.precision, self.world.device):
            return Microbatch(mixed, answers(self.teacher, mixed.images))

    def _clip(self) -> float | None:
        limit = self.recipe.regularization.clip_grad
        if not limit and self.scaler.is_enabled():
            return None
        self.scaler.unscale_(self._optimizer)
        trained = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        if limit:
            nn.utils.clip_grads_with_norm_(trained, limit, norm)
        return float(norm)

    def _sort_units(self, *, epoch: int) -> None:
        if not self.recipe.strategy.sort_units or epoch > self.recipe.sampling.widening_epochs:
            return
        average = [] if self._average is None else [self._average.module.get_submodule("shared").state_dict()]
        # make_strategy has seen that the model can be sorted.
        groups = self.model.sortable()  # type: ignore[operator]
        sort_units(self.model.get_submodule("shared"), groups, optimizer=self._optimizer, averages=average)
