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
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwnas.config import Between, Seed, from_mapping, parse_json, shown
from hwnas.errors import InputError
from hwnas.files import cannot, file_errors, refuse_link, remove_temporaries, require_regular, write_atomic
from hwnas.train.recipe import diff_tables

SCHEMA = "hwnas.checkpoint/3"
"""Schema that this version writes and reads."""

FOLDER = "checkpoints"
_NUM_KEPT = 2
_HEADER_KEY = "hwnas"
_MUST_AGREE = ("model", "recipe", "data", "seed", "world_size", "device")
"""Metadata in which a training must agree with the checkpoint that it resumes from."""
_MAX_RATE = 1e4
"""Largest learning rate, scaled by the batch size, that a recipe can have."""
_SCALARS = (bool, int, float, str)

REMOVE_HINT = "remove it to resume from the one before"
"""Remedy for a damaged checkpoint."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Modules and optimizer whose tensors a checkpoint stores."""

    model: nn.Module
    optimizer: Optimizer
    ema: nn.Module | None = None
    """Exponential moving average of the weights."""


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """JSON in the header of a checkpoint."""

    schema: str
    step: Annotated[int, Between(0, 10**15)]
    """Number of completed steps."""
    epoch: Annotated[int, Between(0, 10**9)]
    seed: Seed
    data: str
    """Fingerprint of the dataset."""
    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    world_size: Annotated[int, Between(1, 2**20)]
    device: str
    scaler: Mapping[str, Any]
    """State of the scaler of losses; empty if there is none."""
    threads: Annotated[int, Between(1, 1024)]
    matmul_backend: Literal["default", "onednn"]
    groups: tuple[Mapping[str, Any], ...]
    """Single values of the optimizer's groups of parameters."""


@dataclass(frozen=True)
class TrainCheckpoint:
    """Content of a checkpoint file."""

    path: Path
    header: CheckpointHeader
    tensors: Mapping[str, Tensor]


def save_checkpoint(run: Path, state: TrainState, metadata: Mapping[str, Any]) -> Path:
    """Write a checkpoint, and remove all but the last two.

    Args:
        run: Run of the training.
        state: Modules and optimizer to store.
        metadata: Values for the header; `step` is the number of completed steps.
    """
    folder = run / FOLDER
    refuse_link(folder)
    with file_errors(folder, "made"):
        folder.mkdir(exist_ok=True)
    path = folder / f"step-{metadata['step']:09d}.safetensors"
    header = {"schema": SCHEMA, **metadata, "groups": _group_scalars(state.optimizer)}
    write_atomic(path, safetensors.torch.save(_collect_tensors(state), {_HEADER_KEY: json.dumps(header)}))
    for old in list_checkpoints(run)[:-_NUM_KEPT]:
        with file_errors(old, "removed"):
            old.unlink()
        _log.debug("removed %s", old)
    return path


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    refuse_link(run / FOLDER)  # old ones are removed, which must not happen to files of another folder
    with file_errors(run / FOLDER, "listed"):
        return sorted((run / FOLDER).glob("step-*.safetensors"))


def last_checkpoint(run: Path, *, clean_up: bool = False) -> TrainCheckpoint | None:
    """Read the newest checkpoint of a run, if there is one.

    Args:
        run: Run of the training.
        clean_up: Remove half-written files of a killed process.
    """
    paths = list_checkpoints(run)
    if clean_up:
        remove_temporaries(run / FOLDER)
    return read_checkpoint(paths[-1]) if paths else None


def last_header(run: Path) -> CheckpointHeader | None:
    """Read the header of the newest checkpoint of a run, if there is one."""
    paths = list_checkpoints(run)
    return _read(paths[-1], with_tensors=False).header if paths else None


def finished_epochs(run: Path) -> int | None:
    """Return the epochs that are done in the newest checkpoint of a run; None: there is none, or it cannot be read."""
    try:
        header = last_header(run)
    except InputError:
        return None
    return None if header is None else header.epoch


def read_checkpoint(path: Path) -> TrainCheckpoint:
    """Read a checkpoint.

    Raises:
        InputError: The file is broken or has another schema.
    """
    _log.info("reading checkpoint %s", path)
    return _read(path, with_tensors=True)


def _read(path: Path, *, with_tensors: bool) -> TrainCheckpoint:
    require_regular(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER_KEY, "{}")
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        failure = cannot("read as a checkpoint", path, error)
        raise InputError(failure.message, got=failure.got, hint=REMOVE_HINT) from error
    source = f"the header of {path}"
    values = parse_json(text, source=source)
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        got = values.get("schema", "none") if isinstance(values, dict) else "none"
        raise InputError(f"{path} must be a checkpoint of schema {SCHEMA}", got=shown(got))
    return TrainCheckpoint(path, from_mapping(CheckpointHeader, values, where=source), tensors)


def require_same_training(checkpoint: TrainCheckpoint, metadata: Mapping[str, Any]) -> None:
    """Raise an InputError unless a training has the model, settings and data that a checkpoint was written with."""
    before = {key: getattr(checkpoint.header, key) for key in _MUST_AGREE}
    now = json.loads(json.dumps({key: metadata[key] for key in _MUST_AGREE}))
    differences = diff_tables(before, now)
    if differences:
        rows = [f"{key} was {shown(old)}, is {shown(new)}" for key, (old, new) in differences.items()]
        more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
        message = f"a resumed training must have the settings that {checkpoint.path.parent.parent} began with"
        raise InputError(message, got="; ".join(rows[:3]) + more, hint="those settings, or another run")


def restore(checkpoint: TrainCheckpoint, state: TrainState, scaler: torch.amp.GradScaler | None = None) -> None:
    """Load the tensors of a checkpoint into a model, its optimizer and its average.

    Args:
        checkpoint: The checkpoint.
        state: Modules and optimizer to fill.
        scaler: Scaler of losses to fill.

    Raises:
        InputError: Names, shapes or values are not those of this training.
    """
    _require_plausible(checkpoint, state)
    try:
        state.model.load_state_dict(_with_prefix(checkpoint.tensors, "model/"))
        if state.ema is not None:
            state.ema.load_state_dict(_with_prefix(checkpoint.tensors, "ema/"))
        _restore_optimizer(checkpoint, state)
        if scaler is not None:
            _restore_scaler(checkpoint, scaler)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        message = f"the content of {checkpoint.path} must be that of this training"
        got = f"{type(error).__name__}: {error}"
        raise InputError(message, got=got[:500], hint=REMOVE_HINT) from error


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
    for group, scalars in zip(groups, checkpoint.header.groups, strict=True):
        group.update(scalars)
    state.optimizer.load_state_dict({"state": values, "param_groups": groups})


def _require_plausible(checkpoint: TrainCheckpoint, state: TrainState) -> None:
    """Raise an InputError for values that would be taken and only show in a later step."""
    source = f"the header of {checkpoint.path}"
    fresh = _group_scalars(state.optimizer)
    if len(checkpoint.header.groups) != len(fresh):
        message = f"{source}: groups must be those of the optimizer"
        raise InputError(message, got=f"{len(checkpoint.header.groups)} of {len(fresh)}", hint=REMOVE_HINT)
    for index, (stored, expected) in enumerate(zip(checkpoint.header.groups, fresh, strict=True)):
        rate = stored.get("lr")
        if type(rate) is not float or not 0 <= rate <= _MAX_RATE:
            message = f"{source}: groups[{index}].lr must be between 0 and {_MAX_RATE:g}"
            raise InputError(message, got=shown(rate), hint=REMOVE_HINT)
        # The schedule sets the rate before each step; all else is decided by the recipe.
        if different := diff_tables(_without_rate(stored), _without_rate(expected)):
            key, (old, new) = next(iter(different.items()))
            message = f"{source}: groups[{index}].{key} must be {shown(new)}, as the recipe sets it"
            raise InputError(message, got=shown(old), hint=REMOVE_HINT)
    for name, tensor in checkpoint.tensors.items():
        if name.startswith(("model/", "ema/")) and tensor.is_floating_point() and not torch.isfinite(tensor).all():
            message = f"tensor {name} of {checkpoint.path} must be finite"
            raise InputError(message, got="NaN or infinity", hint=REMOVE_HINT)
    _require_complete_state(checkpoint, state)


def _require_complete_state(checkpoint: TrainCheckpoint, state: TrainState) -> None:
    """Raise an InputError unless all weights of as many axes have the same values in the optimizer, of their shape."""
    weights = dict(state.model.named_parameters())
    keys: dict[str, set[str]] = {}
    for path, tensor in _with_prefix(checkpoint.tensors, "optimizer/").items():
        name, _, key = path.rpartition("/")
        shape = torch.Size(()) if name not in weights else weights[name].shape
        # Optimizers keep one value per weight, per row or column (Adafactor), or one for the tensor.
        factored = (shape[:-1], torch.Size((*shape[:-2], *shape[-1:])))
        if name not in weights or tensor.shape not in (shape, *factored, (), (1,)):
            message = f"tensor optimizer/{path} of {checkpoint.path} must belong to a weight and have its shape"
            raise InputError(message, got=tuple(tensor.shape), hint=REMOVE_HINT)
        keys.setdefault(name, set()).add(key)
    by_axes: dict[bool, set[str]] = {}
    for name, found in keys.items():
        if "use_muon" in found:  # muon chooses by more than the number of axes
            continue
        expected = by_axes.setdefault(weights[name].ndim > 1, found)
        if found != expected:
            message = f"the optimizer's state of {name} in {checkpoint.path} must be complete"
            raise InputError(message, got=f"{', '.join(sorted(found))} of {', '.join(sorted(expected))}")


def _without_rate(scalars: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scalars.items() if key != "lr"}


def _restore_scaler(checkpoint: TrainCheckpoint, scaler: torch.amp.GradScaler) -> None:
    fresh, stored = scaler.state_dict(), dict(checkpoint.header.scaler)
    types = {key: type(value) for key, value in fresh.items()}
    if {key: type(value) for key, value in stored.items()} != types or not all(value >= 0 for value in stored.values()):
        message = f"the header of {checkpoint.path}: scaler must be the state of a scaler of losses"
        raise InputError(message, got=shown(stored), hint=REMOVE_HINT)
    if stored:
        scaler.load_state_dict(stored)


def _group_scalars(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the single values of each group of parameters, such as the learning rate."""
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    return [{key: value for key, value in group.items() if isinstance(value, _SCALARS)} for group in groups]


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
