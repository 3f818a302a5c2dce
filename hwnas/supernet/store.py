"""Weights in files: safetensors, with what it takes to build the module again in the file's metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from hwnas.config import from_mapping, parse_json, shown, to_mapping
from hwnas.errors import InputError, unknown
from hwnas.runs import write_atomic
from hwnas.space import FAMILIES, SPACES
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.families import SUPERNETS, make_supernet, segment_name, segment_types
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.supernet import AnySupernet

SCHEMA = "hwnas.weights/1"
"""The form of the metadata that this version writes and reads."""

_KEY = "hwnas"
_SPACE_FIELDS = {"schema": str, "kind": str, "family": str, "space": str, "config": dict}
_FIELDS = {
    "supernet": {**_SPACE_FIELDS, "supernet": dict},
    "network": {**_SPACE_FIELDS, "arch": dict, "segments": dict},
}
"""The metadata by kind: every one of these, and nothing else."""


@dataclass(frozen=True)
class StoredNetwork:
    """A network of its own, the space that it comes from and its arch there."""

    network: Network
    space: AnySpace
    arch: Arch


def save_supernet(supernet: AnySupernet, path: Path) -> None:
    """Write a supernet's weights, its space and its config to one file, all or nothing."""
    about = {"kind": "supernet", **_space_values(supernet.space), "supernet": to_mapping(supernet.config)}
    _save(path, supernet.shared, about)


def load_supernet(path: Path) -> AnySupernet:
    """Read a supernet from a file that `save_supernet` wrote."""
    about, tensors = _load(path, kind="supernet")
    space = _space(about)
    config_type = SUPERNETS.get(space.family).config_type
    supernet = make_supernet(space, from_mapping(config_type, about["supernet"], where="supernet"))
    _fill(supernet.shared, tensors, path)
    return supernet


def save_network(network: Network, path: Path, *, space: AnySpace, arch: Arch) -> None:
    """Write a network of its own to one file, all or nothing."""
    outline = {name: _segment_values(config) for name, config in network.outline.items()}
    about = {"kind": "network", **_space_values(space), "arch": arch.to_mapping(), "segments": outline}
    _save(path, network, about)


def load_network(path: Path) -> StoredNetwork:
    """Read a network from a file that `save_network` wrote."""
    about, tensors = _load(path, kind="network")
    space = _space(about)
    arch = space.parse(about["arch"])
    network = _network({name: _segment(name, values) for name, values in about["segments"].items()}, path)
    _fill(network, tensors, path)
    network.input_shape = space.config.input_shape
    return StoredNetwork(network, space, arch)


def read_about(path: Path) -> dict[str, Any]:
    """What a file of weights says of itself; its tensors are not read."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY, "{}")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is not a file of weights that hwnas wrote", got=error) from error
    about = parse_json(text, source=f"the metadata of {path}")
    return about if isinstance(about, dict) else {}


def _save(path: Path, module: nn.Module, about: Mapping[str, Any]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    metadata = {_KEY: json.dumps({"schema": SCHEMA, **about}, allow_nan=False)}
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def _load(path: Path, *, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    about = _checked(read_about(path), kind=kind, path=path)
    return about, safetensors.torch.load_file(path)


def _checked(about: dict[str, Any], *, kind: str, path: Path) -> dict[str, Any]:
    """The metadata, known to have every field of its kind, each a text or a table."""
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path} must hold weights of the form {SCHEMA}", got=about.get("schema", "none"))
    if about.get("kind") != kind:
        raise InputError(f"{path} must hold a {kind}", got=f"a {about.get('kind')}")
    for name in about:
        if name not in _FIELDS[kind]:
            raise unknown(f"the metadata of {path}: key", name, _FIELDS[kind])
    for name, expected in _FIELDS[kind].items():
        if not isinstance(about.get(name), expected):
            what = "a text" if expected is str else "a table of named values"
            got = shown(about[name]) if name in about else "nothing"
            raise InputError(f"the metadata of {path}: {name} must be {what}", got=got)
    return about


def _network(outline: Mapping[str, SegmentConfig], path: Path) -> Network:
    try:
        return Network(outline)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, ValueError) as error:
        raise InputError(f"the segments in the metadata of {path} cannot be built", got=error) from error


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit what it says they are", got=error) from error


def _space_values(space: AnySpace) -> dict[str, Any]:
    return {"family": space.family, "space": space.name, "config": to_mapping(space.config)}


def _space(about: Mapping[str, Any]) -> AnySpace:
    kind = FAMILIES.get(about["family"])
    space = kind(name=about["space"], config=from_mapping(kind.config_type, about["config"], where="config"))
    named = SPACES.get(space.name) if space.name in SPACES else space
    return named if named == space else space


def _segment_values(config: SegmentConfig) -> dict[str, Any]:
    return {"type": segment_name(type(config)), **to_mapping(config)}


def _segment(name: str, values: object) -> SegmentConfig:
    types = segment_types()
    if not isinstance(values, Mapping):
        raise InputError(f"segment {name} must be a table of named values", got=shown(values))
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in types:
        raise unknown(f"segment {name}: type", str(kind), types)
    fields = {key: value for key, value in values.items() if key != "type"}
    config: SegmentConfig = from_mapping(types[kind], fields, where=name)
    return config
