"""The supernets by family, and the kinds of segments that their networks are made of."""

from types import ModuleType
from typing import Any

import torch

from hwnas.errors import InputError
from hwnas.registry import Registry
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet import autoformer, glit, resnas, vitas, vitas_twins
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.supernet.supernet import AnySupernet, SupernetConfig

_MODULES: tuple[ModuleType, ...] = (autoformer, resnas, vitas, vitas_twins, glit)


def make_supernet(space: AnySpace, config: SupernetConfig | None = None) -> AnySupernet:
    """A supernet of a space with fresh weights, drawn from torch's generator."""
    expected = SUPERNETS.get(space.family).config_type
    if config is not None and not isinstance(config, expected):
        raise InputError(f"a supernet of {space.name} takes a {expected.__name__}", got=type(config).__name__)
    supernet: AnySupernet = SUPERNETS.get(space.family)(space, config)
    return supernet


def make_network(space: AnySpace, arch: Arch, config: SupernetConfig | None = None) -> Network:
    """A network of a space with fresh weights, as a supernet of that config would extract it."""
    with torch.device("meta"):
        supernet = make_supernet(space, config)
    return Network(supernet.outline(arch), input_shape=space.config.input_shape)


def segment_types() -> dict[str, type[Any]]:
    """The kinds of segments by the names under which files know them."""
    return {segment_name(kind): kind for module in _MODULES for kind in module.SEGMENTS}


def segment_name(kind: type[SegmentConfig]) -> str:
    """The name under which files know a kind of segment: 'autoformer.BlockConfig'."""
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"


SUPERNETS: Registry[Any] = Registry("family")
"""The supernet classes by family; each is called with a space and a config."""

for _module in _MODULES:
    SUPERNETS.add(_module.SUPERNET.space_type.family, _module.SUPERNET)
