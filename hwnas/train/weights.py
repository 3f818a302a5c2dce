"""Files of trained weights.

RUN/supernet.safetensors    a supernet
RUN/network.safetensors     a network of a space
RUN/model.safetensors       a model of timm
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from hwnas.config import from_mapping
from hwnas.errors import InputError
from hwnas.runs import write_atomic
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.network import Network
from hwnas.supernet.store import load_network, read_about, save_network, save_supernet
from hwnas.supernet.supernet import Supernet

SCHEMA = "hwnas.timm/1"
"""The form of a model of timm in a file."""

SUPERNET, NETWORK, MODEL = "supernet.safetensors", "network.safetensors", "model.safetensors"
_KEY = "hwnas"


@dataclass(frozen=True, kw_only=True)
class SpaceOrigin:
    """A network of its own is one of a space."""

    space: AnySpace
    arch: Arch


@dataclass(frozen=True, kw_only=True)
class TimmOrigin:
    """A model is one of timm's, for these images and classes."""

    name: str
    image_size: int
    num_classes: int


Origin = SpaceOrigin | TimmOrigin


def save_weights(model: nn.Module, folder: Path, origin: Origin | None = None) -> Path:
    """Write the weights of a model to a run folder; all but a supernet need to say where they come from."""
    if isinstance(model, Supernet):
        save_supernet(model, folder / SUPERNET)
        return folder / SUPERNET
    if isinstance(model, Network) and isinstance(origin, SpaceOrigin):
        save_network(model, folder / NETWORK, space=origin.space, arch=origin.arch)
        return folder / NETWORK
    if isinstance(origin, TimmOrigin):
        return _save_timm(model, folder / MODEL, origin)
    raise InputError("a network can only be saved with its space and arch, or its name in timm", got=origin)


def load_model(path: Path) -> nn.Module:
    """A network of a space or a model of timm, from a file of a training or from its run folder.

    Either says by `input_shape` what images it takes.
    """
    file = weights_file(path)
    about = read_about(file)
    return _load_timm(file, about) if about.get("schema") == SCHEMA else load_network(file).network


def origin_of(path: Path) -> Origin:
    """What a file of one network, or that of a run folder, says that it holds."""
    file = weights_file(path)
    about = read_about(file)
    if about.get("schema") == SCHEMA:
        return _timm_origin(about)
    stored = load_network(file)
    return SpaceOrigin(space=stored.space, arch=stored.arch)


def weights_file(path: Path) -> Path:
    """The file of one network: itself, or that of a run folder."""
    file = next((path / name for name in (NETWORK, MODEL) if (path / name).is_file()), path)
    if not file.is_file():
        hint = f"a run that holds {NETWORK} or {MODEL}"
        raise InputError("there must be a file of one network", got=path, hint=hint)
    return file


def _save_timm(model: nn.Module, path: Path, origin: TimmOrigin) -> Path:
    about = {
        "schema": SCHEMA,
        "name": origin.name,
        "image_size": origin.image_size,
        "num_classes": origin.num_classes,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(tensors, {_KEY: json.dumps(about)}))
    return path


def _load_timm(path: Path, about: dict[str, Any]) -> nn.Module:
    from hwnas.train.models import create_timm_model

    origin = _timm_origin(about)
    model = create_timm_model(origin.name, image_size=origin.image_size, num_classes=origin.num_classes)
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit what it says they are", got=error) from error
    model.input_shape = (3, origin.image_size, origin.image_size)  # type: ignore[assignment]
    return model


def _timm_origin(about: dict[str, Any]) -> TimmOrigin:
    return from_mapping(TimmOrigin, {key: value for key, value in about.items() if key != "schema"})
