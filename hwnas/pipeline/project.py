"""Look at images and machine, and write the options of a project's commands: `hwnas init`."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hwnas.arguments import checked_arguments
from hwnas.devices import Machine, detect, load_note
from hwnas.pipeline.proposal import Proposal, open_images, propose_space
from hwnas.pipeline.train import TrainingEstimate, estimate_training
from hwnas.profile.plan import MIN_REPEATS
from hwnas.profile.runners.runner import default_runtime
from hwnas.progress import format_duration
from hwnas.report.finetuning import finetuning_epochs
from hwnas.space import SPACES
from hwnas.train.options import TrainOptions
from hwnas.train.presets import default_recipe

MAX_EPOCHS, MIN_EPOCHS = 100, 10
_SAMPLES, _BUDGET, _FRONT = 60, 200, 15
"""Networks that are measured for the predictor, that a search evaluates, and that it usually verifies."""

_FEWEST = 24
"""Networks that are measured and evaluated where time is short."""

_REFERENCES = 2
"""DeiT-Ti and DeiT-S, which are measured as well."""

_MEASUREMENT_S = 3.0
"""Typical time of the measurement of a small network: its export, its session and its runs."""

_STARTS_S = 2 * 15.0
"""Typical time in which the two processes of a campaign start, with the reference network."""

_OBJECTIVE = "throughput"

_FITTED = ["latency_ms", _OBJECTIVE]
"""Metrics that are fitted: the objective, and latency, whose model it is in another unit; memory would take as long."""

_FIT_S = 15.0
"""Typical time of a fit of these to so many networks."""

_ROUNDS_S = 120.0
"""Typical time of a search of so many evaluations beside these: its surrogates, and the searches on them."""

_EXPORT_S = 40.0
"""Typical time in which a small network is exported and checked: two ONNX graphs and a program of torch."""

_SHARES = 1001
"""Shares of the most epochs and networks that are tried."""

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
        """Estimated time from the first command to the fine-tuned network."""
        return sum(self.minutes.values())

    def to_toml(self) -> str:
        """Return the text of `hwnas.toml`."""
        import tomli_w  # only writing needs it

        images = f"{self.estimate.train_images:,} training images of about {self.proposal.image_side} pixels"
        parts = {**self.minutes, "in all": self.total_minutes}
        times = ", ".join(f"{name} {format_duration(60 * minutes)}" for name, minutes in parts.items())
        head = (
            "# Options of hwnas commands that are run in this folder; those of a command line take precedence.",
            f"# {images}, {self.estimate.config.num_classes} classes; {self.device}.",
            f"# Estimated wall time: {times}.",
            "# The last one fine-tunes a network of the search, with the command that hwnas search and report print.",
        )
        return "\n".join((*head, "", tomli_w.dumps({name: dict(table) for name, table in self.options.items()})))


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The epochs and networks of a project in a space, between the fewest and the most."""

    estimate: TrainingEstimate
    most_epochs: int
    share: float = 0.0
    """Share of what the most take in addition to the fewest."""

    @property
    def fewest_epochs(self) -> int:
        return min(MIN_EPOCHS, self.most_epochs)

    @property
    def epochs(self) -> int:
        return _between(self.fewest_epochs, self.most_epochs, self.share)

    @property
    def samples(self) -> int:
        return _between(_FEWEST, _SAMPLES, self.share)

    @property
    def budget(self) -> int:
        return _between(_FEWEST, _BUDGET, self.share)

    @property
    def minutes(self) -> dict[str, float]:
        """Estimated time of each command; a step of the supernet takes no less than one of a network of it."""
        search_s = self.budget * (_evaluation_s(self.estimate) + _ROUNDS_S / _BUDGET)
        seconds = {
            "train": self.epochs * self.estimate.seconds_per_epoch,
            "profile": _campaign_s(self.samples),
            "fit": _FIT_S,
            "search": search_s + _campaign_s(_FRONT) + _EXPORT_S,
            "train --arch": finetuning_epochs(self.epochs) * self.estimate.seconds_per_epoch,
        }
        return {name: value / 60 for name, value in seconds.items()}

    @property
    def total(self) -> float:
        return sum(self.minutes.values())

    def within(self, minutes: float) -> "_Plan":
        """Return the plan with as large a share as fits; the fewest of all may take longer."""
        number = bisect_right(range(_SHARES), minutes, key=lambda number: self._with(number / (_SHARES - 1)).total)
        return self._with(max(0, number - 1) / (_SHARES - 1))

    def minutes_of(self, epochs: int) -> int:
        """Return the time within which a training has so many epochs."""
        number = bisect_left(range(_SHARES), epochs, key=lambda number: self._with(number / (_SHARES - 1)).epochs)
        return math.ceil(self._with(number / (_SHARES - 1)).total)

    def _with(self, share: float) -> "_Plan":
        return replace(self, share=share)


@checked_arguments
def propose_project(data: str, *, minutes: float = 120.0, machine: Machine | None = None) -> Project:
    """Choose space, recipe, batch, epochs, runtime and budget for images and a machine, and estimate the times.

    The space is the largest one that suits the images and can be trained for ten epochs within the time. The training
    has no more epochs than its recipe, or than 100 with the recipe `small`.

    Args:
        data: Images, as for a training.
        minutes: Wall time of all commands: training, profile, fit, search and the fine-tuning of one network.
        machine: The machine; None: this one.

    Raises:
        InputError: The images cannot be opened, or memory does not suffice.
    """
    machine, busy = machine or detect(), load_note()
    proposal = propose_space(open_images(TrainOptions(data=data)), machine)
    plan, notes = _plan_of(data, proposal.space), [] if busy is None else [busy]
    needed = math.ceil(plan.total)
    for space in proposal.smaller_spaces:
        if plan.total <= minutes:
            break
        if space != proposal.smaller_spaces[-1] and _surely_exceeds(plan, space, minutes):
            continue
        plan = _plan_of(data, space)
    chosen = str(plan.estimate.config.space)
    if chosen != proposal.space:
        notes.append(f"{proposal.space} suits the images, but takes about {needed} minutes: --minutes {needed}")
    if plan.total > minutes:
        needed = math.ceil(plan.total)
        least = f"{plan.epochs} epochs, {plan.samples} measured and {plan.budget} evaluated networks"
        notes.append(f"{minutes:g} minutes do not suffice: {least} take about {needed}: --minutes {needed}")
    plan = plan.within(minutes)
    estimate, device, run = plan.estimate, machine.default_device, "runs/supernet"
    recipe, shared = default_recipe(SPACES.get(chosen)), {"device": device.name}
    train: dict[str, object] = {"data": data, "space": chosen, "recipe": recipe, "epochs": plan.epochs}
    options: dict[str, Mapping[str, object]] = {
        "train": {**train, "batch": estimate.config.recipe.batch_size, "out": run},
        "profile": {"supernet": run, **shared, "runtime": default_runtime(device), "samples": plan.samples},
        "fit": {**shared, "space": chosen, "metric": _FITTED},  # without those of other spaces that ship
        "search": {"supernet": run, **shared, "objective": [_OBJECTIVE], "budget": plan.budget, "out": "runs/search"},
    }
    return Project(
        estimate=estimate,
        proposal=replace(proposal, space=chosen),
        options=options,
        minutes=plan.minutes,
        device=device.name,
        notes=(*estimate.notes, *notes, *_epochs_note(plan, minutes)),
    )


def _plan_of(data: str, space: str) -> _Plan:
    """Time the training of a space, and return the shortest plan."""
    estimate = estimate_training(TrainOptions(data=data, space=space))
    is_small = default_recipe(SPACES.get(space)) == "small"
    return _Plan(estimate=estimate, most_epochs=MAX_EPOCHS if is_small else estimate.config.recipe.epochs)


def _surely_exceeds(plan: _Plan, space: str, minutes: float) -> bool:
    """Return True if a smaller space would not fit even if its steps took as much less time as its MACs are fewer."""
    largest = [SPACES.get(name) for name in (str(plan.estimate.config.space), space)]
    before, after = (int(item.costs(item.encode([item.largest()])).macs[0]) for item in largest)
    seconds = plan.estimate.seconds_per_step * min(1.0, after / before)
    return replace(plan, estimate=replace(plan.estimate, seconds_per_step=seconds)).total > minutes


def _between(fewest: int, most: int, share: float) -> int:
    return fewest + int(share * (most - fewest) + 1e-9)


def _campaign_s(num_networks: int) -> float:
    """Return the time in which networks and the two reference networks are measured, some twice."""
    return _STARTS_S + (num_networks + _REFERENCES + MIN_REPEATS) * _MEASUREMENT_S


def _evaluation_s(estimate: TrainingEstimate) -> float:
    """Return the time in which a network is evaluated on the held-out images, by that of a training step."""
    per_image = estimate.seconds_per_step / estimate.config.recipe.batch_size / _TRAINING_PASSES
    return estimate.heldout_images * per_image


def _epochs_note(plan: _Plan, minutes: float) -> Iterator[str]:
    usual = plan.estimate.config.recipe.epochs
    if plan.epochs < usual and plan.share > 0:
        fitting = f"epochs that fit into {minutes:g} minutes of wall time, with the other commands"
        yield f"{fitting}: {plan.epochs} of {usual}, all of them with --minutes {plan.minutes_of(usual)}"
