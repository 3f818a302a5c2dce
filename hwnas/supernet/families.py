"""The supernet classes of all families, and the segments that their networks are made of."""

from types import ModuleType
from typing import Any

import torch

from hwnas.arguments import checked_arguments
from hwnas.errors import InputError
from hwnas.registry import Registry
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet import autoformer, elastic, glit, resnas, task_head, vitas, vitas_twins
from hwnas.supernet.network import Network
from hwnas.supernet.supernet import AnySupernet, SupernetConfig

_MODULES: tuple[ModuleType, ...] = (autoformer, resnas, vitas, vitas_twins, glit, elastic)

SEGMENT_TYPES: dict[str, type[Any]] = {
    name: kind for module in (*_MODULES, task_head) for name, kind in module.SEGMENTS.items()
}
"""The config classes of segments by the names that weight files store; a renamed class keeps its stored name."""

SUPERNETS: Registry[Any] = Registry("family")
"""The supernet classes by family; each is called with a space and a config."""

for _module in _MODULES:
    SUPERNETS.add(_module.SUPERNET.space_type.family, _module.SUPERNET)


@checked_arguments
def make_supernet(space: AnySpace, config: SupernetConfig | None = None) -> AnySupernet:
    """Make a supernet with fresh weights, drawn from torch's global generator.

    Args:
        space: The space whose networks share the weights.
        config: The supernet config of the space's family; None: its defaults.

    Returns:
        The supernet, in training mode on the CPU.

    Raises:
        InputError: The config belongs to another family.
    """
    expected = SUPERNETS.get(space.family).config_type
    if config is not None and not isinstance(config, expected):
        raise InputError(f"a supernet of {space.name} takes a {expected.__name__}", got=type(config).__name__)
    supernet: AnySupernet = SUPERNETS.get(space.family)(space, config)
    if space.config.task_head is not None:
        *_, head = supernet.outline(space.largest()).values()
        assert isinstance(supernet.shared, Network)
        supernet.shared.replace_head(head)
    return supernet


@checked_arguments
def make_network(space: AnySpace, arch: Arch, config: SupernetConfig | None = None) -> Network:
    """Make one network of a space with fresh weights, as a supernet of that config would extract it."""
    with torch.device("meta"):  # only the outline is needed, not the supernet's weights
        supernet = make_supernet(space, config)
    return Network(supernet.outline(arch), input_shape=space.input_shape_of(arch))
