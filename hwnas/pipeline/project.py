"""Look at images and machine, and write the options of a project's commands: `hwnas init`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hwnas.arguments import checked_arguments
from hwnas.devices import Machine, detect
from hwnas.pipeline.proposal import Proposal, open_images, propose_space
from hwnas.pipeline.train import TrainingEstimate, estimate_training
from hwnas.profile.plan import MIN_REPEATS
from hwnas.profile.runners.runner import default_runtime
from hwnas.space import SPACES
from hwnas.train.options import TrainOptions
from hwnas.train.presets import default_recipe

MAX_EPOCHS = 100
_SAMPLES, _BUDGET, _FRONT = 60, 200, 15
"""Networks that are measured for the predictor, that a search evaluates, and that it usually verifies."""

_REFERENCES = 2
"""DeiT-Ti and DeiT-S, which are measured as well."""

_MEASUREMENT_S = 3.0
"""Typical time of the measurement of a small network: its export, its session and its runs."""

_STARTS_S = 2 * 15.0
"""Typical time in which the two processes of a campaign start, with the reference network."""

_FIT_S = 30.0
"""Typical time of a fit of latency, throughput and memory to so many networks."""

_ROUNDS_S = 120.0
"""Typical time of a search of so many evaluations beside these: its surrogates, and the searches on them."""

_EXPORT_S = 40.0
"""Typical time in which a small network is exported and checked: two ONNX graphs and a program of torch."""

_TRAINING_PASSES = 3
"""Forward passes that the time of a training step is worth."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """Options of the commands of a project, with estimated times."""

    estimate: TrainingEstimate
    proposal: Proposal
    options: Mapping[str, Mapping[str, object]]
    """By command, as `hwnas.toml` has them."""
    minutes: Mapping[str, float]
    """Estimated wall time of each long command."""
    device: str
    notes: tuple[str, ...] = ()

    @property
    def total_minutes(self) -> float:
        """Estimated time from the first command to the exported network."""
        return sum(self.minutes.values())

    def to_toml(self) -> str:
        """Return the text of `hwnas.toml`."""
        import tomli_w  # only writing needs it

        images = f"{self.estimate.train_images:,} training images of about {self.proposal.image_side} pixels"
        parts = {**self.minutes, "in all": self.total_minutes}
        times = ", ".join(f"{name} {_rounded(minutes)}" for name, minutes in parts.items())
        head = (
            "# Options of hwnas commands that are run in this folder; those of a command line take precedence.",
            f"# {images}, {self.estimate.config.num_classes} classes; {self.device}.",
            f"# Estimated wall time: {times}.",
        )
        return "\n".join((*head, "", tomli_w.dumps({name: dict(table) for name, table in self.options.items()})))


@checked_arguments
def propose_project(data: str, *, minutes: float = 60.0, machine: Machine | None = None) -> Project:
    """Choose space, recipe, batch, epochs, runtime and budget for images and a machine, and estimate the times.

    Args:
        data: Images, as for a training.
        minutes: Wall time that the training of the supernet may take. It has no more epochs than its recipe, or than
            100 with the recipe `small`.
        machine: The machine; None: this one.

    Raises:
        InputError: The images cannot be opened, or memory does not suffice.
    """
    machine = machine or detect()
    proposal = propose_space(open_images(TrainOptions(data=data)), machine)
    recipe = default_recipe(SPACES.get(proposal.space))
    estimate = estimate_training(TrainOptions(data=data, space=proposal.space))
    found, device = estimate.config.recipe, machine.default_device
    most = MAX_EPOCHS if recipe == "small" else found.epochs
    epochs = min(most, max(1, int(60 * minutes / estimate.seconds_per_epoch)))
    train: dict[str, object] = {"data": data, "space": proposal.space, "recipe": recipe, "epochs": epochs}
    run, shared = "runs/supernet", {"device": device.name}
    options: dict[str, Mapping[str, object]] = {
        "train": {**train, "batch": found.batch_size, "out": run},
        "profile": {"supernet": run, **shared, "runtime": default_runtime(device), "samples": _SAMPLES},
        "fit": {**shared, "space": proposal.space},  # without those of other spaces that ship
        "search": {"supernet": run, **shared, "objective": ["throughput"], "budget": _BUDGET, "out": "runs/search"},
    }
    times = {
        "train": epochs * estimate.seconds_per_epoch / 60,
        "profile": _campaign_s(_SAMPLES) / 60,
        "fit": _FIT_S / 60,
        "search": (_BUDGET * _evaluation_s(estimate) + _ROUNDS_S + _campaign_s(_FRONT) + _EXPORT_S) / 60,
    }
    notes = tuple(_notes(epochs, estimate, minutes))
    return Project(
        estimate=estimate, proposal=proposal, options=options, minutes=times, device=device.name, notes=notes
    )


def _campaign_s(num_networks: int) -> float:
    """Return the time in which networks and the two reference networks are measured, some twice."""
    return _STARTS_S + (num_networks + _REFERENCES + MIN_REPEATS) * _MEASUREMENT_S


def _evaluation_s(estimate: TrainingEstimate) -> float:
    """Return the time in which a network is evaluated on the held-out images, by that of a training step."""
    per_image = estimate.seconds_per_step / estimate.config.recipe.batch_size / _TRAINING_PASSES
    return estimate.heldout_images * per_image


def _notes(epochs: int, estimate: TrainingEstimate, minutes: float) -> Iterator[str]:
    yield from estimate.notes
    usual = estimate.config.recipe.epochs
    if epochs < usual:
        needed = math.ceil(usual * estimate.seconds_per_epoch / 60)
        fitting = f"epochs that fit into {minutes:g} minutes of wall time: {epochs} of {usual}"
        yield f"{fitting}, all of them with --minutes {needed}"


def _rounded(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
