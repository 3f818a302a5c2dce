"""Weight files: safetensors with the configs of the module in the metadata."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hwnas.config import from_mapping, parse_json, shown, to_mapping
from hwnas.errors import InputError, unknown
from hwnas.files import printable, require_file_name, require_regular, write_atomic
from hwnas.space import FAMILIES, SPACES
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.families import SEGMENT_TYPES, SUPERNETS, make_supernet
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.supernet import AnySupernet

_log = logging.getLogger(__name__)

SCHEMA = "hwnas.weights/1"
"""Schema of the metadata that this version writes and reads."""

_KEY = "hwnas"
_SPACE_FIELDS = {"schema": str, "kind": str, "family": str, "space": str, "config": dict}
_FIELDS = {
    "supernet": {**_SPACE_FIELDS, "supernet": dict},
    "network": {**_SPACE_FIELDS, "arch": dict, "segments": dict},
}
"""The metadata by kind of file: all of these fields are required, others are errors."""

_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL")
_BUILDING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Exceptions of modules whose configs contradict one another."""


@dataclass(frozen=True)
class StoredNetwork:
    """A network read from a file, with the space that it comes from and its arch there."""

    network: Network
    space: AnySpace
    arch: Arch


def save_supernet(supernet: AnySupernet, path: Path) -> None:
    """Write the weights, space and config of a supernet to one file, atomically."""
    about = {"kind": "supernet", **_space_values(supernet.space), "supernet": to_mapping(supernet.config)}
    _save(path, supernet.shared, about)


def load_supernet(path: Path) -> AnySupernet:
    """Read a supernet from a file that `save_supernet` wrote.

    Args:
        path: The file.

    Returns:
        The supernet, on the CPU and in training mode.

    Raises:
        InputError: The file is missing, holds something else, or its weights do not fit its metadata.
    """
    about = _read_about(path, kind="supernet")
    space = _space(about, path)
    config_type = SUPERNETS.get(space.family).config_type
    config = from_mapping(config_type, about["supernet"], where=f"the metadata of {path}: supernet")
    with _building(path):
        with torch.device("meta"):  # first without memory, which the metadata could ask for without bound
            outline = make_supernet(space, config)
        _require_shapes(outline.shared, path)
        supernet = make_supernet(space, config)
    _fill(supernet.shared, path)
    return supernet


def save_network(network: Network, path: Path, *, space: AnySpace, arch: Arch) -> None:
    """Write a network to one file, atomically.

    Args:
        network: The network, extracted from a supernet or built alone.
        path: The file; an existing one is replaced.
        space: The space of the network.
        arch: The network within that space.
    """
    type_names = {kind: name for name, kind in SEGMENT_TYPES.items()}
    segments = {
        name: {"type": type_names[type(config)], **to_mapping(config)} for name, config in network.outline.items()
    }
    about = {"kind": "network", **_space_values(space), "arch": arch.to_mapping(), "segments": segments}
    _save(path, network, about)


def load_network(path: Path) -> StoredNetwork:
    """Read a network from a file that `save_network` wrote.

    Args:
        path: The file.

    Returns:
        The network, on the CPU and in training mode, with its space and arch.

    Raises:
        InputError: The file is missing, holds something else, or its weights do not fit its metadata.
    """
    about = _read_about(path, kind="network")
    space = _space(about, path)
    arch = space.parse(about["arch"])
    outline = {name: _segment(name, values) for name, values in about["segments"].items()}
    with _building(path):
        with torch.device("meta"):
            _require_shapes(Network(outline), path)
        network = Network(outline)
    _fill(network, path)
    network.input_shape = space.input_shape_of(arch)
    return StoredNetwork(network, space, arch)


def read_about(path: Path) -> dict[str, Any]:
    """Read the metadata of a weight file, without its tensors; empty if hwnas did not write the file."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_KEY, "{}")
    about = parse_json(text, source=f"the metadata of {path}")
    return about if isinstance(about, dict) else {}


def _save(path: Path, module: nn.Module, about: Mapping[str, Any]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    metadata = {_KEY: json.dumps({"schema": SCHEMA, **about}, allow_nan=False)}
    write_atomic(path, safetensors.torch.save(tensors, metadata))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file of safetensors, and turn what the library raises into an InputError."""
    require_regular(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{printable(path)} is not a weight file that hwnas wrote", got=error) from error


def _read_about(path: Path, *, kind: str) -> dict[str, Any]:
    """Read the metadata, after checking that it has exactly the fields of its kind."""
    _log.info("reading %s %s", kind, path)
    about = read_about(path)
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path} must have the schema {SCHEMA}", got=about.get("schema", "none"))
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


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """Turn what modules raise about configs that make no sense into an InputError."""
    try:
        yield
    except _BUILDING_ERRORS as error:
        got = str(error) or type(error).__name__
        raise InputError(f"the module in the metadata of {path} cannot be built", got=got) from error


def _require_shapes(outline: nn.Module, path: Path) -> None:
    """Raise an InputError unless a file has the tensors of a module, before memory is allocated for it."""
    expected = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        stored = {name: tuple(part.get_shape()) for name, part in slices.items()}
        strange = next((name for name, part in slices.items() if part.get_dtype() not in _DTYPES), None)
    differing = next((name for name in {**expected, **stored} if expected.get(name) != stored.get(name)), None)
    if differing is not None:
        needed = sum(tensor.nbytes for tensor in outline.state_dict().values())
        got = f"{differing} of the shape {stored.get(differing)} instead of {expected.get(differing)}"
        raise InputError(
            f"the weights in {path} do not fit its metadata", got=f"{got}; its metadata asks for {needed:,} bytes"
        )
    if strange is not None:
        got = f"{strange} of type {slices[strange].get_dtype()}"
        raise InputError(f"the weights in {path} must be real numbers", got=got)


def _fill(module: nn.Module, path: Path) -> None:
    with _opened(path) as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit its metadata", got=error) from error


def _space_values(space: AnySpace) -> dict[str, Any]:
    return {"family": space.family, "space": space.name, "config": to_mapping(space.config)}


def _space(about: Mapping[str, Any], path: Path) -> AnySpace:
    source = f"the metadata of {path}"
    if about["family"] not in FAMILIES:
        raise unknown(f"{source}: family", about["family"], FAMILIES)
    kind = FAMILIES.get(about["family"])
    name = require_file_name(about["space"], what=f"{source}: space")
    with _building(path):
        space = kind(name=name, config=from_mapping(kind.config_type, about["config"], where=f"{source}: config"))
    named = SPACES.get(space.name) if space.name in SPACES else space
    return named if named == space else space  # the named space also knows its published networks


def _segment(name: str, values: object) -> SegmentConfig:
    if not isinstance(values, Mapping):
        raise InputError(f"segment {name} must be a table of named values", got=shown(values))
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in SEGMENT_TYPES:
        raise unknown(f"segment {name}: type", str(kind), SEGMENT_TYPES)
    fields = {key: value for key, value in values.items() if key != "type"}
    config: SegmentConfig = from_mapping(SEGMENT_TYPES[kind], fields, where=name)
    return config
