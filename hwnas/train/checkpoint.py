"""Checkpoints: everything that a training needs to resume exactly, in one file that is written atomically.

    RUN/checkpoints/step-000001200.safetensors

The tensors are the weights (`model/…`), the optimizer's state by name of the weight (`optimizer/…`) and the average
(`ema/…`); all else is JSON in the header. The last two files are kept.
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
from hwnas.files import write_atomic
from hwnas.train.recipe import diff_tables

SCHEMA = "hwnas.checkpoint/3"
"""Schema that this version writes and reads."""

FOLDER = "checkpoints"
_NUM_KEPT = 2
_HEADER_KEY = "hwnas"
_MUST_AGREE = ("model", "recipe", "data", "seed", "world_size", "device")
"""Metadata in which a training must agree with the checkpoint that it resumes from."""
_SCALARS = (bool, int, float, str)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Modules and optimizer whose tensors a checkpoint stores."""

    model: nn.Module
    optimizer: Optimizer
    ema: nn.Module | None = None
    """Exponential moving average of the weights."""


@dataclass(frozen=True)
class TrainCheckpoint:
    """Content of a checkpoint file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return int(self.metadata["step"])


def save_checkpoint(run: Path, state: TrainState, metadata: Mapping[str, Any]) -> Path:
    """Write a checkpoint, and remove all but the last two.

    Args:
        run: Run of the training.
        state: Modules and optimizer to store.
        metadata: Values for the header; `step` is the number of completed steps.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{metadata['step']:09d}.safetensors"
    header = {"schema": SCHEMA, **metadata, "groups": _group_scalars(state.optimizer)}
    write_atomic(path, safetensors.torch.save(_collect_tensors(state), {_HEADER_KEY: json.dumps(header)}))
    for old in list_checkpoints(run)[:-_NUM_KEPT]:
        old.unlink()
        _log.debug("removed %s", old)
    return path


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted((run / FOLDER).glob("step-*.safetensors"))


def last_checkpoint(run: Path, *, clean_up: bool = False) -> TrainCheckpoint | None:
    """Read the newest checkpoint of a run, if there is one.

    Args:
        run: Run of the training.
        clean_up: Remove half-written files of a killed process.
    """
    for leftover in (run / FOLDER).glob(".step-*.tmp") if clean_up else ():
        leftover.unlink()
    paths = list_checkpoints(run)
    return read_checkpoint(paths[-1]) if paths else None


def read_checkpoint(path: Path) -> TrainCheckpoint:
    """Read a checkpoint.

    Raises:
        InputError: The file is broken or has another schema.
    """
    _log.info("reading checkpoint %s", path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER_KEY, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        message = f"{path} cannot be read as a checkpoint"
        raise InputError(message, got=error, hint="remove it to resume from the one before") from error
    metadata = parse_json(text, source=f"the header of {path}")
    if not isinstance(metadata, dict) or metadata.get("schema") != SCHEMA:
        got = metadata.get("schema", "none") if isinstance(metadata, dict) else "none"
        raise InputError(f"{path} must be a checkpoint of schema {SCHEMA}", got=got)
    return TrainCheckpoint(path, metadata, tensors)


def require_same_training(checkpoint: TrainCheckpoint, metadata: Mapping[str, Any]) -> None:
    """Raise an InputError unless a training has the model, settings and data that a checkpoint was written with."""
    before = {key: checkpoint.metadata.get(key) for key in _MUST_AGREE}
    now = json.loads(json.dumps({key: metadata[key] for key in _MUST_AGREE}))
    differences = diff_tables(before, now)
    if differences:
        rows = [f"{key} was {old}, is {new}" for key, (old, new) in differences.items()]
        more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
        message = f"a resumed training must have the settings that {checkpoint.path.parent.parent} began with"
        raise InputError(message, got="; ".join(rows[:3]) + more, hint="those settings, or another run")


def restore(checkpoint: TrainCheckpoint, state: TrainState) -> None:
    """Load the tensors of a checkpoint into a model, its optimizer and its average."""
    state.model.load_state_dict(_with_prefix(checkpoint.tensors, "model/"))
    if state.ema is not None:
        state.ema.load_state_dict(_with_prefix(checkpoint.tensors, "ema/"))
    _restore_optimizer(checkpoint, state)


def require_finite(model: nn.Module, *, step: int, run: Path) -> None:
    """Raise an InputError if weights are not finite, so that they are not written to a checkpoint."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            message = f"weights must be finite, but {name} is not after step {step}"
            raise InputError(message, got="NaN or infinity", hint=divergence_hint(run))


def divergence_hint(run: Path) -> str:
    """Return what to do after a training has diverged."""
    paths = list_checkpoints(run)
    last = f"; the last good checkpoint is {paths[-1]}" if paths else "; there is no checkpoint yet"
    return f"a smaller optimizer.lr, regularization.clip_grad=1, or precision=fp32{last}"


def _collect_tensors(state: TrainState) -> dict[str, Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    if state.ema is not None:
        tensors.update({f"ema/{name}": tensor for name, tensor in state.ema.state_dict().items()})
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore_optimizer(checkpoint: TrainCheckpoint, state: TrainState) -> None:
    # torch numbers parameters in the order of the groups; the file has their names, which survive another order.
    names = {parameter: name for name, parameter in state.model.named_parameters()}
    order = [names[parameter] for group in state.optimizer.param_groups for parameter in group["params"]]
    numbers = {name: number for number, name in enumerate(order)}
    values: dict[int, dict[str, Any]] = {}
    for path, tensor in _with_prefix(checkpoint.tensors, "optimizer/").items():
        name, _, key = path.rpartition("/")
        values.setdefault(numbers[name], {})[key] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    for group, scalars in zip(groups, checkpoint.metadata["groups"], strict=True):
        group.update(scalars)
    state.optimizer.load_state_dict({"state": values, "param_groups": groups})


def _group_scalars(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the single values of each group of parameters, such as the learning rate."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    return [{key: value for key, value in group.items() if isinstance(value, _SCALARS)} for group in groups]


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
