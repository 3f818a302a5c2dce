"""Checkpoints: all that a training needs to go on exactly, each in one file that is there as a whole or not at all.

    RUN/checkpoints/step-000001200.safetensors

The file holds the weights (`model/…`), what the optimizer keeps of each by its name (`optimizer/…`) and the average
(`ema/…`); what is no tensor stands as JSON in its header. The last two files are kept.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwnas.config import parse_json
from hwnas.errors import InputError
from hwnas.runs import write_atomic
from hwnas.train.recipe import diff_tables

_log = logging.getLogger(__name__)

SCHEMA = "hwnas.checkpoint/3"
"""The form that this version writes and reads."""

FOLDER = "checkpoints"
_KEPT = 2
_KEY = "hwnas"
_MUST_AGREE = ("model", "recipe", "data", "seed", "world_size", "device")
"""What a training must have in common with the checkpoint that it goes on from."""
_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What of a training is kept in a checkpoint as tensors."""

    model: nn.Module
    optimizer: Optimizer
    average: nn.Module | None = None


@dataclass(frozen=True)
class TrainCheckpoint:
    """A checkpoint that was read."""

    path: Path
    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        """The steps that were done."""
        return int(self.about["step"])


def save_checkpoint(run: Path, parts: TrainState, about: Mapping[str, Any]) -> Path:
    """Write a checkpoint, and remove all but the last two."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{about['step']:09d}.safetensors"
    header = {"schema": SCHEMA, **about, "groups": _groups(parts.optimizer)}
    write_atomic(path, safetensors.torch.save(_tensors(parts), {_KEY: json.dumps(header)}))
    for old in checkpoints(run)[:-_KEPT]:
        old.unlink()
        _log.debug("removed %s", old)
    return path


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run / FOLDER).glob("step-*.safetensors"))


def last_checkpoint(run: Path, *, cleaning: bool = False) -> TrainCheckpoint | None:
    """The newest checkpoint of a run, if there is one; `cleaning` removes what a killed process left half-written."""
    for leftover in (run / FOLDER).glob(".step-*.tmp") if cleaning else ():
        leftover.unlink()
    paths = checkpoints(run)
    return read_checkpoint(paths[-1]) if paths else None


def read_checkpoint(path: Path) -> TrainCheckpoint:
    """Read a checkpoint."""
    _log.info("reading checkpoint %s", path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        message = f"{path} cannot be read as a checkpoint"
        raise InputError(message, got=error, hint="remove it to go on from the one before") from error
    about = parse_json(text, source=f"the header of {path}")
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        got = about.get("schema", "none") if isinstance(about, dict) else "none"
        raise InputError(f"{path} must be a checkpoint of the form {SCHEMA}", got=got)
    return TrainCheckpoint(path, about, tensors)


def require_same(checkpoint: TrainCheckpoint, about: Mapping[str, Any]) -> None:
    """A training must go on with the settings that it began with."""
    before = {key: checkpoint.about.get(key) for key in _MUST_AGREE}
    now = json.loads(json.dumps({key: about[key] for key in _MUST_AGREE}))
    found = diff_tables(before, now)
    if found:
        rows = [f"{key} was {old}, is {new}" for key, (old, new) in found.items()]
        more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
        message = f"a training must go on as it began: {checkpoint.path.parent.parent} began otherwise"
        raise InputError(message, got="; ".join(rows[:3]) + more, hint="the settings it began with, or another run")


def restore(checkpoint: TrainCheckpoint, parts: TrainState) -> None:
    """Put what a checkpoint holds into a training."""
    parts.model.load_state_dict(_under(checkpoint.tensors, "model/"))
    if parts.average is not None:
        parts.average.load_state_dict(_under(checkpoint.tensors, "ema/"))
    _restore_optimizer(checkpoint, parts)


def require_finite(model: nn.Module, *, step: int, run: Path) -> None:
    """Weights that are no numbers must not become a checkpoint."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            message = f"weights must be finite, but {name} is not after step {step}"
            raise InputError(message, got="NaN or infinity", hint=after_divergence(run))


def after_divergence(run: Path) -> str:
    """What to do when a training has diverged."""
    kept = checkpoints(run)
    good = f"; the last good checkpoint is {kept[-1]}" if kept else "; there is no checkpoint yet"
    return f"a smaller optimizer.lr, regularization.clip_grad=1, or precision=fp32{good}"


def _tensors(parts: TrainState) -> dict[str, Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in parts.model.state_dict().items()}
    for name, parameter in parts.model.named_parameters():
        for key, value in parts.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    if parts.average is not None:
        tensors.update({f"ema/{name}": tensor for name, tensor in parts.average.state_dict().items()})
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore_optimizer(checkpoint: TrainCheckpoint, parts: TrainState) -> None:
    names = {parameter: name for name, parameter in parts.model.named_parameters()}
    order = [names[parameter] for group in parts.optimizer.param_groups for parameter in group["params"]]
    numbers = {name: number for number, name in enumerate(order)}
    state: dict[int, dict[str, Any]] = {}
    for path, tensor in _under(checkpoint.tensors, "optimizer/").items():
        name, _, key = path.rpartition("/")
        state.setdefault(numbers[name], {})[key] = tensor
    groups = parts.optimizer.state_dict()["param_groups"]
    for group, kept in zip(groups, checkpoint.about["groups"], strict=True):
        group.update(kept)
    parts.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The single values that an optimizer keeps for each group of parameters."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    return [{key: value for key, value in group.items() if isinstance(value, _SCALARS)} for group in groups]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
