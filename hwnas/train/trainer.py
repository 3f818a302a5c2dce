"""The trainer: it runs a training from its first step, or from its last checkpoint, to its end.

A training that is killed at any point and resumed ends with the same weights, because every draw is a function of the
seed and the step. On a CPU the weights are equal bit for bit, with the number of threads and the matmul backend that
are stored in checkpoints.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import nn

from hwnas.config import Between, require_valid, to_mapping
from hwnas.errors import InputError, Interrupted
from hwnas.progress import NullReporter, Reporter, TrainingProgress
from hwnas.supernet.matmul import matmul_backend
from hwnas.train import checkpoint as checkpoints
from hwnas.train.data.detection_loader import DetectionBatch
from hwnas.train.data.loader import Batch, Prefetcher
from hwnas.train.distributed import World
from hwnas.train.machine import (
    StopRequest,
    choose_threads,
    compiled_blocks,
    cpu_settings,
    plain_attention,
    stop_on_signals,
)
from hwnas.train.machine_settings import MachineSettings
from hwnas.train.metrics import MetricsWriter
from hwnas.train.models import arch_names, largest_macs, model_identity
from hwnas.train.recipe import EmaConfig, Recipe
from hwnas.train.seeds import preserve_rng_state
from hwnas.train.step import Stepper, StepResult
from hwnas.train.strategies import StepNetworks

_log = logging.getLogger(__name__)

_MAX_INITIAL_SHARE = 0.05
"""Largest share that the initial weights may have in the average at the end."""

_TIMED_MICROBATCHES = 2
"""Microbatches that are computed to estimate the time of a step."""


class BatchSource(Protocol):
    """Source of batches, as `TrainLoader` and `DetectionTrainLoader` of `hwnas.train.data` are."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch] | Iterator[DetectionBatch]:
        """Iterate over the batches of an epoch, from number `first` on."""


EvaluateModel = Callable[[nn.Module], Mapping[str, float]]
"""Returns accuracies of a model, by the names of its networks."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Execution of a training, which is no part of its recipe."""

    checkpoint_minutes: float = 10.0
    """Time between checkpoints; one is written at the end of each epoch as well."""
    threads: int = 0
    """CPU threads; 0: one if steps are small, else torch's own choice. Resumed trainings keep their number."""
    compile: Literal["auto", "blocks", "never"] = "auto"
    """Compile the blocks of a single network; `auto`: on a GPU."""
    evaluate_every: Annotated[int, Between(0, 100_000)] = 0
    """Epochs from one evaluation on held-out images to the next; 0: none. The weights do not depend on it."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class TrainerResult:
    """Figures of a completed training."""

    steps: int
    planned_steps: int
    """Steps of all epochs; more than `steps` if the training was ended before."""
    loss: float | None
    """Loss of the last step; None: the resumed training had already ended."""
    seconds: float
    """Time since the training was started or resumed."""
    images_per_s: float


class Trainer:
    """Trains a model in place. Only the main process writes files.

    Args:
        run: Run for checkpoints and metrics.
        model: Supernet or network to train.
        batches: Source of training images, in microbatches.
        recipe: Settings of the training.
        seed: Decides every draw.
        data: Fingerprint of the dataset; a resumed training must have the same.
        teacher: Network to distil from.
        world: Processes of the training; by default this one.
        config: Execution of the training.
        machine: Settings of the CPU that the run was made with; None: they are chosen.
        end_step: The step to end at; None: that in which all epochs are done.
        earlier_epochs: Numbers of epochs that the recipe had before, in checkpoints that are resumed from.
        evaluate: Evaluates the model, or the moving average of its weights, every `config.evaluate_every` epochs.
        reporter: Receives progress.

    Raises:
        InputError: The recipe cannot train this model, or an epoch has no full step.
    """

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
        machine: MachineSettings | None = None,
        end_step: int | None = None,
        earlier_epochs: Collection[int] = (),
        evaluate: EvaluateModel | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.folder, self.model, self.batches, self.recipe = run, model, batches, recipe
        self.world, self.config = world or World(), config or TrainerConfig()
        self._evaluate, self._reporter = evaluate, reporter or NullReporter()
        self.seed, self.data = seed, data
        self.steps_per_epoch = _steps_per_epoch(batches, recipe)
        self.planned_steps = self.steps_per_epoch * recipe.epochs
        self.steps = self.planned_steps if end_step is None else end_step
        self._earlier_epochs = earlier_epochs
        _require_fast_average(recipe.ema, self.planned_steps)
        self._microbatch_size = recipe.microbatch_size(self.world.size)
        self._stepper = Stepper(
            model, recipe, seed=seed, steps_per_epoch=self.steps_per_epoch, teacher=teacher, world=self.world
        )
        self._machine = machine
        self._completed = 0
        self._ahead: Prefetcher[Batch | DetectionBatch] | None = None
        self._loss: float | None = None

    def run(self, *, resume: bool = False) -> TrainerResult:
        """Train to the end.

        Args:
            resume: Resume from the last checkpoint, if there is one.

        Raises:
            InputError: The run has checkpoints and is not resumed, the checkpoint is of another training, or the
                training has diverged.
            Interrupted: A signal asked to stop; the state is saved.
        """
        checkpoint = self._last_checkpoint(resume=resume)
        with self._pinned_settings(checkpoint), stop_on_signals() as stop:
            if checkpoint is not None:
                checkpoints.restore(checkpoint, self._stepper.state, self._stepper.scaler)
                self._completed = checkpoint.header.step
                self._report_resumed()
            return self._train(stop)

    def time_steps(self, steps: int = 3) -> float:
        """Return the median time of a few steps in seconds, loading of images included.

        The first step, which allocates memory and starts workers, is not counted. Of the microbatches of a step a few
        are computed, and stand for all. The weights change, so that the trainer cannot be used afterwards.
        """
        ends = []
        size = self.recipe.grad_accum_steps
        timed = min(size, _TIMED_MICROBATCHES)
        with self._pinned_settings(None):
            self.model.train()
            endless = chain.from_iterable(self._microbatches(epoch, first=0) for epoch in count())
            for step in range(steps + 1):
                self._stepper.run(step, list(islice(endless, timed)), self._stepper.draw_networks(step))
                ends.append(time.perf_counter())
        return median(end - before for before, end in pairwise(ends)) * size / timed

    def use_ema_weights(self) -> bool:
        """Load the moving average into the model; return False if there is none, or a poor one after so few steps."""
        ema = self._stepper.state.ema
        if ema is None or _initial_share(self.recipe.ema, self.steps) > _MAX_INITIAL_SHARE:
            return False
        self.model.load_state_dict(ema.state_dict())
        return True

    def choose_machine(self) -> MachineSettings:
        """Return the settings of the CPU, which are chosen by this machine unless they were given."""
        if self._machine is None:
            macs = largest_macs(self.model) * self._microbatch_size
            threads = choose_threads(requested=self.config.threads, macs=macs)
            self._machine = MachineSettings(threads=threads, matmul_backend=matmul_backend())
        return self._machine

    def _last_checkpoint(self, *, resume: bool) -> checkpoints.TrainCheckpoint | None:
        if not resume:
            if checkpoints.list_checkpoints(self.folder):
                raise InputError("a new training must not have checkpoints", got=self.folder, hint="--resume")
            return None
        checkpoint = checkpoints.last_checkpoint(self.folder, clean_up=self.world.is_main_process)
        if checkpoint is not None:
            metadata = self._metadata()
            if (epochs := checkpoint.header.recipe.get("epochs")) in self._earlier_epochs:
                metadata["recipe"]["epochs"] = epochs
            checkpoints.require_same_training(checkpoint, metadata)
            if checkpoint.header.step > self.steps:
                message = f"step in the header of {checkpoint.path} must be at most {self.steps}"
                raise InputError(message, got=checkpoint.header.step, hint=checkpoints.REMOVE_HINT)
        return checkpoint

    @contextmanager
    def _pinned_settings(self, checkpoint: checkpoints.TrainCheckpoint | None) -> Iterator[None]:
        """Pin threads and matmul backend to those of a checkpoint, of the run, or to what suits this machine."""
        if checkpoint is not None:
            header = checkpoint.header
            self._machine = MachineSettings(threads=header.threads, matmul_backend=header.matmul_backend)
        machine, device = self.choose_machine(), self.world.device
        _log.info("training on %s, %d threads, matmul backend %s", device, machine.threads, machine.matmul_backend)
        compiled = compiled_blocks(self.model, mode=self.config.compile, device=device)
        pinned = cpu_settings(threads=machine.threads, matmul_backend=machine.matmul_backend)
        models = self.model, self._stepper.teacher
        plain = plain_attention(*models, precision=self.recipe.precision, device=device)
        with preserve_rng_state(device), pinned, plain, compiled:
            yield

    def _train(self, stop: StopRequest) -> TrainerResult:
        first, began = self._completed, time.monotonic()
        self._first_step, self._began = first, began
        self._saved_at = self._last_step_at = began
        self.model.train()
        with ExitStack() as stack:
            if self.world.is_main_process:
                self._metrics = stack.enter_context(MetricsWriter(self.folder, step=first))
            for epoch in range(first // self.steps_per_epoch, math.ceil(self.steps / self.steps_per_epoch)):
                self._run_epoch(epoch, stop)
        seconds = time.monotonic() - began
        images = (self.steps - first) * self.recipe.batch_size
        return TrainerResult(
            steps=self.steps,
            planned_steps=self.planned_steps,
            loss=self._loss,
            seconds=seconds,
            images_per_s=images / max(seconds, 1e-9),
        )

    def _run_epoch(self, epoch: int, stop: StopRequest) -> None:
        for microbatches in self._epoch(epoch, first=self._completed - epoch * self.steps_per_epoch):
            networks = self._stepper.draw_networks(self._completed)
            meanwhile = partial(self._meanwhile, stop)
            result = self._stepper.run(self._completed, microbatches, networks, meanwhile=meanwhile)
            self._completed += 1
            if result.problem:  # the weights are still those of the step before
                message = result.problem.format(step=self._completed)
                got = ", ".join(arch_names(self.model, networks.archs))
                raise InputError(message, got=got, hint=checkpoints.divergence_hint(self.folder))
            self._loss = result.loss
            self._after_step(epoch, result, networks, stop)

    def _meanwhile(self, stop: StopRequest) -> tuple[bool, bool]:
        """Prepare the next batch while the device computes; return if this process asks to stop or to save."""
        if self._ahead is not None:
            self._ahead.prepare()
        minutes = (time.monotonic() - self._saved_at) / 60
        return stop.requested, self.world.is_main_process and minutes >= self.config.checkpoint_minutes

    def _epoch(self, epoch: int, *, first: int) -> Iterator[list[Batch | DetectionBatch]]:
        """Yield the microbatches of each step of an epoch, from a step on."""
        size = self.recipe.grad_accum_steps
        end = min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)
        with closing(self._microbatches(epoch, first=first * size)) as microbatches:
            for _ in range(first, end):
                yield list(islice(microbatches, size))

    def _microbatches(self, epoch: int, *, first: int) -> Generator[Batch | DetectionBatch]:
        """Yield the microbatches of an epoch, from one on."""
        self._ahead = Prefetcher(self.batches.epoch(epoch, first=first), self.world.device)
        try:
            yield from self._ahead
        finally:
            self._ahead = None

    def _after_step(self, epoch: int, result: StepResult, networks: StepNetworks, stop: StopRequest) -> None:
        """Report the step; save or stop if any process asks for it."""
        # Signals and clocks differ between processes: all of them must save and stop after the same step.
        stopping, saving = result.votes
        heldout = self._heldout_accuracies(epoch)
        if self.world.is_main_process:
            self._report(epoch, result, networks, heldout=heldout)
        if stopping or saving or self._completed % self.steps_per_epoch == 0 or self._completed == self.steps:
            self._save()
        if stopping and self._completed < self.steps:
            message = f"the training was stopped after step {self._completed:,} of {self.steps:,}"
            # Another process of the training may have got the signal.
            number = signal.SIGTERM if stop.number is None else stop.number
            raise Interrupted(f"{message}; the state is saved in {self.folder}", number=number)

    def _heldout_accuracies(self, epoch: int) -> Mapping[str, float]:
        """Evaluate the model after the last step of an epoch, if it is the turn of this epoch."""
        every, ends = self.config.evaluate_every, self._completed % self.steps_per_epoch == 0
        if self._evaluate is None or not every or not ends or (epoch + 1) % every:
            return {}
        accuracies: Mapping[str, float] = {}
        if self.world.is_main_process:
            evaluated = self._stepper.state.ema or self.model
            was_training = evaluated.training
            with preserve_rng_state(self.world.device), torch.no_grad():
                accuracies = self._evaluate(evaluated.eval())
            evaluated.train(was_training)
            listed = ", ".join(f"{name} {value:.2%}" for name, value in accuracies.items())
            self._reporter.message(f"epoch {epoch + 1}: held-out accuracy of the {listed}")
        self.world.barrier()
        return accuracies

    def _report_resumed(self) -> None:
        if self.world.is_main_process and self._completed < self.steps:
            epoch = f"epoch {self._completed // self.steps_per_epoch + 1} of {self.recipe.epochs}"
            self._reporter.message(f"resuming at {epoch}, step {self._completed + 1:,} of {self.steps:,}")

    def _report(self, epoch: int, result: StepResult, networks: StepNetworks, *, heldout: Mapping[str, float]) -> None:
        now = time.monotonic()
        state = TrainingProgress(
            step=self._completed,
            total_steps=self.steps,
            first_step=self._first_step,
            epoch=epoch,
            total_epochs=self.recipe.epochs,
            loss=float(self._loss or 0),
            images_per_s=self.recipe.batch_size / max(now - self._last_step_at, 1e-9),
            elapsed_s=now - self._began,
        )
        self._last_step_at = time.monotonic() if heldout else now
        grad_norm = result.grad_norm
        row: dict[str, Any] = {
            "step": state.step,
            "epoch": epoch,
            "loss": state.loss,
            "lr": result.lr,
            "images_per_s": round(state.images_per_s, 1),
            "macs": list(networks.macs),
            "grad_norm": grad_norm if grad_norm is not None and math.isfinite(grad_norm) else None,
            **({"heldout": dict(heldout)} if heldout else {}),
        }
        self._metrics.write(row)
        self._reporter.update(state)

    def _save(self) -> None:
        if self.world.is_main_process:
            checkpoints.require_finite(self.model, step=self._completed, run=self.folder)
            checkpoints.save_checkpoint(self.folder, self._stepper.state, self._metadata())
        self._saved_at = time.monotonic()

    def _metadata(self) -> dict[str, Any]:
        return {
            "step": self._completed,
            "epoch": self._completed // self.steps_per_epoch,
            "seed": self.seed,
            "data": self.data,
            "recipe": to_mapping(self.recipe),
            "model": model_identity(self.model),
            "world_size": self.world.size,
            "device": self.world.device.type,
            "scaler": self._stepper.scaler.state_dict(),
            **to_mapping(self.choose_machine()),
        }


def _require_fast_average(config: EmaConfig, steps: int) -> None:
    """Raise an InputError if the average would still consist of initial weights to a large part at the end."""
    share = _initial_share(config, steps)
    if share > _MAX_INITIAL_SHARE:
        message = f"initial weights may be at most {_MAX_INITIAL_SHARE:.0%} of the average of the weights at the end"
        got = f"{share:.0%} after {steps} steps with ema.decay={config.decay}"
        raise InputError(message, got=got, hint="ema.warmup=true, or a smaller ema.decay")


def _initial_share(config: EmaConfig, steps: int) -> float:
    """Return the share of the initial weights in the average after so many steps."""
    return 0.0 if config.warmup or not steps else config.decay**steps


def _steps_per_epoch(batches: BatchSource, recipe: Recipe) -> int:
    steps = len(batches) // recipe.grad_accum_steps
    if steps < 1:
        message = "the images of an epoch must fill at least one step"
        raise InputError(
            message, got=f"{len(batches)} batches, {recipe.grad_accum_steps} a step", hint="a smaller --batch"
        )
    return steps
