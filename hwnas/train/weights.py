"""Files of trained weights.

RUN/supernet.safetensors    a supernet
RUN/network.safetensors     a network of a space
RUN/model.safetensors       a model of timm
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import safetensors
import safetensors.torch
from torch import nn

from hwnas.config import Between, from_mapping
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.runs import MODEL, NETWORK, SUPERNET
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.network import Network
from hwnas.supernet.store import load_network, read_about, save_network, save_supernet
from hwnas.supernet.supernet import Supernet
from hwnas.train.run_folder import weights_file

SCHEMA = "hwnas.timm/1"
"""Schema of a file with a model of timm."""

_HEADER_KEY = "hwnas"


@dataclass(frozen=True, kw_only=True)
class SpaceOrigin:
    """Space and arch of a single network."""

    space: AnySpace
    arch: Arch


@dataclass(frozen=True, kw_only=True)
class TimmOrigin:
    """Name of a model in timm, with its image size and number of classes."""

    name: str
    image_size: Annotated[int, Between(1, 16_384)]
    num_classes: Annotated[int, Between(1, 1_000_000)]


WeightsOrigin = SpaceOrigin | TimmOrigin


def save_weights(model: nn.Module, folder: Path, origin: WeightsOrigin | None = None) -> Path:
    """Write the weights of a model to a run.

    Args:
        model: A supernet, a network of a space or a model of timm.
        folder: Folder of the run.
        origin: What the model is, which is stored with it; a supernet needs none.

    Returns:
        The file.
    """
    if isinstance(model, Supernet):
        save_supernet(model, folder / SUPERNET)
        return folder / SUPERNET
    if isinstance(model, Network) and isinstance(origin, SpaceOrigin):
        save_network(model, folder / NETWORK, space=origin.space, arch=origin.arch)
        return folder / NETWORK
    if isinstance(origin, TimmOrigin):
        return _save_timm(model, folder / MODEL, origin)
    raise InputError("a network must be saved with its space and arch, or with its name in timm", got=origin)


def load_model(path: Path) -> nn.Module:
    """Load a network of a space or a model of timm.

    Args:
        path: File of the weights, or the run of a training.

    Returns:
        The model, whose `input_shape` is that of the images that it takes.

    Raises:
        InputError: There is no file of a single network, or it is broken.
    """
    file = weights_file(path)
    about = read_about(file)
    return _load_timm(file) if about.get("schema") == SCHEMA else load_network(file).network


def read_timm_origin(path: Path) -> TimmOrigin:
    """Return the name, image size and classes of the model of timm in a file or run.

    Raises:
        InputError: There is no file of a single network, or it holds a network of a space.
    """
    file = weights_file(path)
    about = read_about(file)
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path} must hold a model of timm", got="a network of a space", hint="--supernet")
    values = {key: value for key, value in about.items() if key != "schema"}
    return from_mapping(TimmOrigin, values, where=f"the metadata of {file}")


def timm_weights(path: Path, name: str) -> Path:
    """Return the file of a model of timm in a file or run.

    Raises:
        InputError: There is no such file, or it holds another model.
    """
    found = read_timm_origin(path).name
    if found.removeprefix("timm:") != name.removeprefix("timm:"):
        raise InputError(f"{path} must hold the weights of {name}", got=found, hint=f"--model {found}")
    return weights_file(path)


def _save_timm(model: nn.Module, path: Path, origin: TimmOrigin) -> Path:
    about = {
        "schema": SCHEMA,
        "name": origin.name,
        "image_size": origin.image_size,
        "num_classes": origin.num_classes,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(tensors, {_HEADER_KEY: json.dumps(about)}))
    return path


def _load_timm(path: Path) -> nn.Module:
    from hwnas.train.models import create_timm_model

    origin = read_timm_origin(path)
    model = create_timm_model(origin.name, image_size=origin.image_size, num_classes=origin.num_classes)
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"the weights in {path} must be those of {origin.name}", got=error) from error
    model.input_shape = (3, origin.image_size, origin.image_size)  # type: ignore[assignment]
    return model
