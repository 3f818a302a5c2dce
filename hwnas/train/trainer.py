"""The trainer: a training from its first step, or from its last checkpoint, to its end.

A training that was killed anywhere ends, when it is resumed, with the same weights: every draw is a function of the
seed and the step. On a CPU that holds bit for bit, given the number of threads, which a checkpoint remembers.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal, Protocol

from torch import nn

from hwnas.config import to_mapping
from hwnas.errors import InputError
from hwnas.progress import NullReporter, Reporter, TrainingProgress
from hwnas.supernet.matmul import matmul_backend
from hwnas.train import checkpoint as checkpoints
from hwnas.train.data.loader import Batch
from hwnas.train.distributed import World
from hwnas.train.machine import Interrupted, StopRequest, choose_threads, compiled_blocks, cpu_settings, stop_on_signals
from hwnas.train.metrics import MetricsWriter
from hwnas.train.models import arch_names, largest_macs, model_identity
from hwnas.train.recipe import EmaConfig, Recipe
from hwnas.train.seeds import preserve_rng_state
from hwnas.train.step import Stepper, StepResult
from hwnas.train.strategies import StepNetworks

_log = logging.getLogger(__name__)

_FIRST_WEIGHTS = 0.05
"""The share of an average that its first weights may have in the end."""


class BatchSource(Protocol):
    """Source of training batches, such as `hwnas.train.data.loader.TrainLoader`."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from the `first` on."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of the loop. Only `threads` affects the result, and checkpoints record it."""

    checkpoint_minutes: float = 10.0
    """Interval of checkpoints, in addition to those at the end of each epoch."""
    threads: int = 0
    """Of a CPU; 0: one where steps are small, else torch's own choice."""
    compile: Literal["auto", "blocks", "never"] = "auto"
    """Compile the blocks of a single network; auto: on a GPU."""


@dataclass(frozen=True, kw_only=True)
class TrainerResult:
    """The end of a training."""

    steps: int
    loss: float | None
    """Of the last step; None: a resumed training that had nothing left to do."""
    seconds: float
    """Since it was begun or resumed."""
    images_per_s: float


class Trainer:
    """Trains a model in place. The process of rank 0 alone writes files."""

    def __init__(
        self,
        run: Path,
        model: nn.Module,
        batches: BatchSource,
        recipe: Recipe,
        *,
        seed: int,
        data: str,
        teacher: nn.Module | None = None,
        world: World | None = None,
        config: TrainerConfig | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.folder, self.model, self.batches, self.recipe = run, model, batches, recipe
        self.world, self.config = world or World(), config or TrainerConfig()
        self._reporter = reporter or NullReporter()
        self.seed, self.data = seed, data
        self.steps_per_epoch = _steps_per_epoch(batches, recipe)
        self.steps = self.steps_per_epoch * recipe.epochs
        _require_average(recipe.ema, self.steps)
        self._part_size = recipe.microbatch_size(self.world.size)
        self._stepper = Stepper(
            model, recipe, seed=seed, steps_per_epoch=self.steps_per_epoch, teacher=teacher, world=self.world
        )
        self._machine: dict[str, Any] = {}
        self._done = 0
        self._loss: float | None = None

    def run(self, *, resume: bool = False) -> TrainerResult:
        """Train to the end; with `resume`, from the last checkpoint where there is one."""
        found = self._last_checkpoint(resume=resume)
        with self._settings(found), stop_on_signals() as stop:
            if found is not None:
                self._restore(found)
            return self._trained(stop)

    def time_steps(self, steps: int = 3) -> float:
        """The median seconds of a few steps with their loading; the first one, which sets things up, does not count.

        The weights are changed, so the trainer is of no use afterwards.
        """
        ends = []
        with self._settings(None):
            self.model.train()
            epochs = chain.from_iterable(self._epoch(epoch, first=0) for epoch in count())
            for step, parts in enumerate(islice(epochs, steps + 1)):
                self._stepper.run(step, parts, self._stepper.draw_networks(step))
                ends.append(time.perf_counter())
        return median(end - before for before, end in pairwise(ends))

    def use_ema_weights(self) -> bool:
        """Give the model the moving average of its weights, if there is one."""
        average = self._stepper.state.ema
        if average is not None:
            self.model.load_state_dict(average.state_dict())
        return average is not None

    # From here on, in the order in which a run goes.

    def _last_checkpoint(self, *, resume: bool) -> checkpoints.TrainCheckpoint | None:
        if not resume:
            if checkpoints.list_checkpoints(self.folder):
                raise InputError("a new training must not have checkpoints", got=self.folder, hint="--resume")
            return None
        found = checkpoints.last_checkpoint(self.folder, clean_up=self.world.is_main_process)
        if found is not None:
            checkpoints.require_same_training(found, self._about())
        return found

    @contextmanager
    def _settings(self, found: checkpoints.TrainCheckpoint | None) -> Iterator[None]:
        """Threads and matmul backend as a checkpoint has them, else as they suit this machine; generators kept."""
        threads = choose_threads(requested=self.config.threads, macs=largest_macs(self.model) * self._part_size)
        self._machine = {"threads": threads, "matmul_backend": matmul_backend()}
        if found is not None:
            self._machine = {name: found.metadata[name] for name in self._machine}
        device = self.world.device
        _log.info("training on %s, %s", device, ", ".join(f"{name} {value}" for name, value in self._machine.items()))
        compiled = compiled_blocks(self.model, mode=self.config.compile, device=device)
        with preserve_rng_state(device), cpu_settings(**self._machine), compiled:
            yield

    def _restore(self, found: checkpoints.TrainCheckpoint) -> None:
        checkpoints.restore(found, self._stepper.state)
        if found.metadata["scaler"]:
            self._stepper.scaler.load_state_dict(found.metadata["scaler"])
        self._done = found.step

    def _trained(self, stop: StopRequest) -> TrainerResult:
        first, began = self._done, time.monotonic()
        self._first, self._began = first, began
        self._saved_at = self._clock = began
        self.model.train()
        with ExitStack() as stack:
            if self.world.is_main_process:
                self._metrics = stack.enter_context(MetricsWriter(self.folder, step=first))
            for epoch in range(first // self.steps_per_epoch, self.recipe.epochs):
                self._run_epoch(epoch, stop)
        seconds = time.monotonic() - began
        images = (self.steps - first) * self._part_size * self.recipe.grad_accum_steps * self.world.size
        return TrainerResult(
            steps=self.steps, loss=self._loss, seconds=seconds, images_per_s=images / max(seconds, 1e-9)
        )

    def _run_epoch(self, epoch: int, stop: StopRequest) -> None:
        for parts in self._epoch(epoch, first=self._done - epoch * self.steps_per_epoch):
            networks = self._stepper.draw_networks(self._done)
            result = self._stepper.run(self._done, parts, networks)
            self._done += 1
            self._require_finite(result, networks)
            self._loss = result.loss
            self._after_step(epoch, result, networks, stop)

    def _epoch(self, epoch: int, *, first: int) -> Iterator[list[Batch]]:
        """The parts of each step of an epoch, from a step on."""
        parts = self.recipe.grad_accum_steps
        batches = self.batches.epoch(epoch, first=first * parts)
        for _ in range(first, self.steps_per_epoch):
            yield list(islice(batches, parts))

    def _after_step(self, epoch: int, result: StepResult, networks: StepNetworks, stop: StopRequest) -> None:
        """Agree with the other processes on how the step went and what is to be done; tell, save, stop."""
        due = self.world.is_main_process and time.monotonic() - self._saved_at >= 60 * self.config.checkpoint_minutes
        stopping, saving = self.world.mean([stop.requested, due])
        if self.world.is_main_process:
            self._tell(epoch, result, networks)
        if stopping or saving or self._done % self.steps_per_epoch == 0:
            self._save()
        if stopping and self._done < self.steps:
            where = f"after step {self._done} of {self.steps}; the state is saved in {self.folder}"
            raise Interrupted(f"the training was stopped {where}")

    def _tell(self, epoch: int, result: StepResult, networks: StepNetworks) -> None:
        now = time.monotonic()
        images = self._part_size * self.recipe.grad_accum_steps * self.world.size
        state = TrainingProgress(
            step=self._done,
            total_steps=self.steps,
            first_step=self._first,
            epoch=epoch,
            total_epochs=self.recipe.epochs,
            loss=float(self._loss or 0),
            images_per_s=images / max(now - self._clock, 1e-9),
            elapsed_s=now - self._began,
        )
        self._clock = now
        row: dict[str, Any] = {
            "step": state.step,
            "epoch": epoch,
            "loss": state.loss,
            "lr": result.lr,
            "images_per_s": round(state.images_per_s, 1),
            "macs": list(networks.macs),
            "grad_norm": _finite(result.grad_norm),
        }
        self._metrics.write(row)
        self._reporter.update(state)

    def _require_finite(self, result: StepResult, networks: StepNetworks) -> None:
        """The weights are still those of the step before."""
        if not result.problem:
            return
        message = result.problem.format(step=self._done)
        got = ", ".join(arch_names(self.model, networks.archs))
        raise InputError(message, got=got, hint=checkpoints.divergence_hint(self.folder))

    def _save(self) -> None:
        if self.world.is_main_process:
            checkpoints.require_finite(self.model, step=self._done, run=self.folder)
            checkpoints.save_checkpoint(self.folder, self._stepper.state, self._about())
        self._saved_at = time.monotonic()

    def _about(self) -> dict[str, Any]:
        return {
            "step": self._done,
            "epoch": self._done // self.steps_per_epoch,
            "seed": self.seed,
            "data": self.data,
            "recipe": to_mapping(self.recipe),
            "model": model_identity(self.model),
            "world_size": self.world.size,
            "device": self.world.device.type,
            "scaler": self._stepper.scaler.state_dict(),
            **self._machine,
        }


def _require_average(config: EmaConfig, steps: int) -> None:
    """An average must have forgotten the weights of the first step, but for a little, when the training ends."""
    left = 0.0 if config.warmup else config.decay**steps
    if left > _FIRST_WEIGHTS:
        message = f"at most {_FIRST_WEIGHTS:.0%} of the average of the weights may be left of the first ones"
        got = f"{left:.0%} after {steps} steps with ema.decay={config.decay}"
        raise InputError(message, got=got, hint="ema.warmup=true, or a smaller ema.decay")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _steps_per_epoch(batches: BatchSource, recipe: Recipe) -> int:
    steps = len(batches) // recipe.grad_accum_steps
    if steps < 1:
        message = "the images of an epoch must fill at least one step"
        raise InputError(
            message, got=f"{len(batches)} batches, {recipe.grad_accum_steps} a step", hint="a smaller --batch"
        )
    return steps
