"""One optimizer step of a training: draw networks, run forward and backward passes, update the weights.

A step is a function of the weights, the seed and its number: networks, mixing and stochastic depth draw from generators
that are seeded for this step alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.supernet.sorting import sort_units
from hwnas.train.checkpoint import TrainState
from hwnas.train.data.detection_loader import DetectionBatch
from hwnas.train.data.loader import Batch
from hwnas.train.distributed import World
from hwnas.train.losses import Microbatch
from hwnas.train.machine import autocast
from hwnas.train.mixing import MixedBatch, make_mixer
from hwnas.train.models import has_distillation_token, num_classes_of, patches_per_side
from hwnas.train.optimizer import make_ema, make_optimizer, make_schedule
from hwnas.train.recipe import Recipe
from hwnas.train.seeds import generator, seed_torch, torch_seed
from hwnas.train.strategies import StepNetworks, make_strategy
from hwnas.train.tasks import normalized
from hwnas.train.teacher import compute_teacher_logits


@dataclass(frozen=True)
class StepResult:
    """Loss and learning rate of a step."""

    loss: float
    """Mean over all processes."""
    lr: float
    grad_norm: float | None
    """Before clipping; None under fp16 without clipping, where gradients stay scaled."""
    problem: str = ""
    """Template of an error about numbers that are not finite, in which case the weights were not updated."""
    votes: tuple[float, ...] = ()
    """What the processes were asked, averaged over them."""


class Stepper:
    """Trains a model in place, step by step.

    Args:
        model: Supernet or network to train; it is moved to the device.
        recipe: Settings of the training.
        seed: Seed of the training.
        steps_per_epoch: Steps of an epoch.
        teacher: Network to distil from, if any.
        world: Processes of the training.

    Raises:
        InputError: The recipe cannot train this model on this device.
    """

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
        autocast(recipe.precision, world.device)  # raises before the first step if the device lacks the precision
        self.model, self.recipe, self.seed, self.world = model.to(world.device), recipe, seed, world
        self.teacher = None if teacher is None else teacher.to(world.device)
        if teacher is None and has_distillation_token(model):
            message = "the distillation token of a network learns the labels of a teacher"
            raise InputError(message, got="no teacher", hint="--teacher NAME, or a space without distilled-")
        self.strategy = make_strategy(model, recipe, seed=seed, world_size=world.size)
        self.scaler = torch.amp.GradScaler("cuda", enabled=recipe.precision == "fp16")
        self._steps_per_epoch = steps_per_epoch
        self._mixer = None
        if self.strategy.task_outputs is None:
            self._mixer = make_mixer(recipe.mix, num_classes=num_classes_of(model), patches=patches_per_side(model))
        elif recipe.mix.mixes or teacher is not None:
            got = "a teacher" if teacher is not None else f"mixup {recipe.mix.mixup}, cutmix {recipe.mix.cutmix}"
            message = "networks for detection and segmentation learn neither mixed images nor a teacher"
            raise InputError(message, got=got, hint="mix.mixup=0 mix.cutmix=0 mix.token_mixup=false, no --teacher")
        self._optimizer = make_optimizer(model, recipe.optimizer, batch_size=recipe.batch_size)
        self._schedule = make_schedule(self._optimizer, recipe, steps_per_epoch=steps_per_epoch)
        self._ema = make_ema(model, recipe.ema)

    @property
    def state(self) -> TrainState:
        """Modules and optimizer that a checkpoint stores."""
        ema = None if self._ema is None else self._ema.module
        return TrainState(model=self.model, optimizer=self._optimizer, ema=ema)

    def draw_networks(self, step: int) -> StepNetworks:
        """Draw the networks of a step."""
        rank = 0 if self.strategy.same_on_all_ranks else self.world.rank
        rng = generator(self.seed, "networks", step, rank)
        return self.strategy.draw(rng, epoch=step // self._steps_per_epoch)

    def run(
        self,
        step: int,
        batches: Sequence[Batch | DetectionBatch],
        networks: StepNetworks,
        *,
        meanwhile: Callable[[], Sequence[float]] = tuple,
    ) -> StepResult:
        """Run one step. It waits for the device once, when its figures are read.

        Args:
            step: Number of the step, from 0.
            batches: Images of its microbatches.
            networks: Networks that it trains.
            meanwhile: Called while the device still computes; the values that it returns are averaged over processes.
        """
        if step % self._steps_per_epoch == 0:
            self._sort_units(epoch=step // self._steps_per_epoch)
        by_epoch = self.recipe.schedule.interval == "epoch"
        self._schedule.step_update(step - step % self._steps_per_epoch if by_epoch else step)
        losses = [self._run_microbatch(step, index, batch, networks) for index, batch in enumerate(batches)]
        self.world.average_gradients(
            self.model.parameters(),
            unused_weights=self.recipe.unused_weights,
            # Images without objects may leave weights of a detector's head without a gradient.
            same_networks=self.strategy.same_on_all_ranks and not isinstance(batches[0], DetectionBatch),
        )
        self.world.average_buffers(self.model)
        norm = self._clip_gradients()
        (loss, total, *votes), grad_norm = self._read_figures(losses, norm, meanwhile())
        problem = self._find_problem(loss, total, grad_norm)
        if not problem:
            self.scaler.step(self._optimizer)
            self.scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
            if self._ema is not None:
                self._ema.update(self.model, step=step + 1)
        return StepResult(loss, self._optimizer.param_groups[0]["lr"], grad_norm, problem, tuple(votes))

    def _read_figures(
        self, losses: Sequence[Tensor], norm: Tensor | None, votes: Sequence[float]
    ) -> tuple[list[float], float | None]:
        """Wait for the device; return the reported loss, the sum of all losses and votes, and the norm of gradients.

        All but the norm, which is that of averaged gradients, are averaged over microbatches and processes. If the sum
        is not finite on one process, it is finite on none, so that all processes stop together.
        """
        means = torch.stack([torch.stack([part[0], part.sum()]) for part in losses]).mean(0)
        figures = self.world.mean_on_device(means, votes)
        if norm is None:
            return figures.tolist(), None
        *read, grad_norm = torch.cat([figures, norm.double().reshape(1)]).tolist()
        return read, grad_norm

    def _find_problem(self, loss: float, total: float, grad_norm: float | None) -> str:
        if not math.isfinite(loss):
            return f"the loss must be finite, but that of step {{step}} is {loss}"
        if not math.isfinite(total):
            return f"all losses must be finite, but the sum of those of step {{step}} is {total}"
        # Under fp16 the scaler skips steps with infinite gradients and lowers its scale: that is no problem.
        if grad_norm is not None and not math.isfinite(grad_norm) and not self.scaler.is_enabled():
            return f"gradients must be finite, but the norm of those of step {{step}} is {grad_norm}"
        return ""

    def _run_microbatch(self, step: int, index: int, batch: Batch | DetectionBatch, networks: StepNetworks) -> Tensor:
        """Run forward and backward passes of one microbatch; return its losses, the reported one first."""
        microbatch = self._prepare(batch.to(self.world.device), counters=(step, index, self.world.rank))
        losses = self.strategy.losses(microbatch, networks)
        computed: list[Tensor] = []
        while True:
            # The generator computes a loss when it is asked for the next one: only that belongs under autocast, the
            # backward pass does not.
            with autocast(self.recipe.precision, self.world.device):
                loss = next(losses, None)
            if loss is None:
                return torch.stack(computed)
            self.scaler.scale(loss / self.recipe.grad_accum_steps).backward()  # type: ignore[no-untyped-call]
            computed.append(loss.detach())

    def _prepare(self, batch: Batch | DetectionBatch, *, counters: tuple[int, int, int]) -> Microbatch:
        if isinstance(batch, DetectionBatch):
            seed_torch(torch_seed(self.seed, "drop path", *counters), self.world.device)
            images = normalized(batch.images)
            return Microbatch(MixedBatch(images, images.new_zeros(0)), task_targets=batch.targets)
        assert self._mixer is not None, "images with classes for a network for detection or segmentation"
        mixed = self._mixer(batch.images, batch.labels, generator(self.seed, "mixing", *counters))
        seed_torch(torch_seed(self.seed, "drop path", *counters), self.world.device)
        if self.teacher is None:
            return Microbatch(mixed)
        with autocast(self.recipe.precision, self.world.device):
            return Microbatch(mixed, compute_teacher_logits(self.teacher, mixed.images))

    def _clip_gradients(self) -> Tensor | None:
        max_norm = self.recipe.regularization.clip_grad
        if not max_norm and self.scaler.is_enabled():
            return None
        self.scaler.unscale_(self._optimizer)
        trained = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        if max_norm:
            nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
        return norm

    def _sort_units(self, *, epoch: int) -> None:
        """Sort heads and hidden units by importance, so that narrow networks take the important ones (ViT-ResNAS).

        The optimizer's state and the average are permuted with the weights: a moment belongs to its unit.
        """
        if not self.recipe.strategy.sort_units or epoch > self.recipe.sampling.widening_epochs:
            return
        averages = [] if self._ema is None else [self._ema.module.get_submodule("shared").state_dict()]
        groups = self.model.sortable()  # type: ignore[operator]  # make_strategy has checked that it can be sorted
        sort_units(self.model.get_submodule("shared"), groups, optimizer=self._optimizer, averages=averages)
