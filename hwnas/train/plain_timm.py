"""Networks of elastic spaces as plain models of timm, where timm's classes have such models.

timm describes a model by a few numbers for all of its blocks. A network is such a model if all blocks that it has are
alike, with all heads: timm's heads are as wide as the embedding divided by their number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import timm
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.elastic import Elastic, ElasticArch, ElasticConfig
from hwnas.space.space import AnySpace, Space
from hwnas.supernet.elastic import outline
from hwnas.supernet.network import Network, SegmentConfig
from hwnas.train.pretrained import parse_space_name, space_of, supernet_weights

_HINT = "--format safetensors, onnx or pt2, which hold any network"


@dataclass(frozen=True, kw_only=True)
class PlainModel:
    """A model of timm with the weights of a network."""

    module: nn.Module
    """In evaluation mode."""
    name: str
    """Its name in timm."""
    options: Mapping[str, Any]
    """Options of `timm.create_model` beside the number of classes."""


def differing_blocks(space: Space[ElasticConfig, ElasticArch], arch: ElasticArch) -> str | None:
    """Describe how the blocks of a network differ from each other or from timm's; None if they do not.

    Args:
        space: An elastic space.
        arch: A network of it; blocks that are skipped whole do not count.
    """
    kept = [(slot, block) for slot, block in enumerate(arch.blocks) if block.num_heads or block.hidden_dim]
    whole, found = space.config.num_heads[-1], []
    for words, widths, allowed in (
        (f"heads, of {whole}", [(slot, block.num_heads) for slot, block in kept], (whole,)),
        ("hidden units", [(slot, block.hidden_dim) for slot, block in kept], space.config.hidden_dims),
    ):
        slots: dict[int, list[int]] = {}
        for slot, width in widths:
            slots.setdefault(width, []).append(slot)
        if len(slots) > 1 or not 0 < max(slots) in allowed:
            listed = (f"{width or 'none'} in {_blocks(own)}" for width, own in sorted(slots.items()))
            found.append(f"{words}: {', '.join(listed)}")
    return "; ".join(found) or None


def require_plain(space: AnySpace, arch: Arch) -> None:
    """Raise InputError unless all blocks of a network are alike, as those of a model of timm."""
    if not isinstance(space, Elastic) or not isinstance(arch, ElasticArch):
        message = "models of timm are made of networks that were cut from one"
        raise InputError(message, got=space.name, hint=_HINT)
    differing = differing_blocks(space, arch)
    if differing is not None:
        message = "a plain model of timm must have blocks that are all alike, with all heads"
        raise InputError(message, got=differing, hint=_HINT)


def plain_model(network: Network, space: AnySpace, arch: Arch) -> PlainModel:
    """Make the model of timm that computes what a network computes.

    Args:
        network: A network of the space.
        space: An elastic space.
        arch: The network's arch.

    Raises:
        InputError: timm has no such model, as when blocks differ.
    """
    require_plain(space, arch)
    assert isinstance(arch, ElasticArch)
    name = parse_space_name(space.name).model.partition(".")[0]  # the tag names weights
    blocks = [block for block in arch.blocks if block.num_heads]
    embed_dim, hidden_dim = space.config.embed_dim, blocks[0].hidden_dim
    changes = {
        "img_size": space.image_size_of(arch),
        "patch_size": arch.patch_size,
        "depth": len(blocks),
        # timm rounds the product down.
        "mlp_ratio": (hidden_dim + 0.5) / embed_dim if hidden_dim != space.config.hidden_dims[-1] else None,
    }
    options: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    with torch.random.fork_rng(devices=[]):  # its fresh weights are replaced
        module = timm.create_model(name, num_classes=space.config.num_classes, **options).double().eval()
    found = space_of(module, name=name, num_classes=space.config.num_classes)
    built = outline(found.config, found.original)
    names = dict(zip(built, network.outline, strict=True))  # blocks of a model are numbered without gaps
    for segment, config in built.items():
        wanted, has = (vars(_bare(item)) for item in (network.outline[names[segment]], config))
        others = [f"{key} {value}, {has[key]} in timm" for key, value in wanted.items() if has[key] != value]
        if others:
            message = f"timm's {name} has no form with the {segment} of this network"
            raise InputError(message, got=", ".join(others), hint=_HINT)
    _copy_weights(network, module, found, names)
    return PlainModel(module=module.float(), name=name, options=options)


def _copy_weights(
    network: Network, module: nn.Module, space: Space[ElasticConfig, ElasticArch], names: Mapping[str, str]
) -> None:
    """Give a model of timm the weights of a network, by where numbered weights of the model would go."""
    own = network.state_dict()
    parameters, total = list(module.parameters()), 0
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.arange(total + 1, total + 1 + parameter.numel()).view_as(parameter))
            total += parameter.numel()
        weights, known = torch.zeros(total + 1, dtype=torch.float64), torch.zeros(total + 1, dtype=torch.bool)
        for key, numbers in supernet_weights(module, space.config):
            segment = next(name for name in names if key.startswith(f"{name}."))
            value = own[names[segment] + key.removeprefix(segment)].cpu().double()
            if value[numbers == 0].any():  # as a bias that the model lacks
                message = f"a plain model of timm has no {key.removeprefix(f'{segment}.')} in its {segment}"
                raise InputError(message, got="one that is not 0", hint=_HINT)
            weights[numbers.long()], known[numbers.long()] = value, True
        assert known[1:].all(), "weights of the model that the network does not have"
        start = 1
        for parameter in parameters:
            parameter.copy_(weights[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()


def _bare(config: SegmentConfig) -> SegmentConfig:
    """Return a config without what a model of timm does not depend on."""
    values: Any = config
    ignored = {"drop_path": 0.0, "image_size": None}
    bare: SegmentConfig = replace(values, **{name: value for name, value in ignored.items() if hasattr(values, name)})
    return bare


def _blocks(slots: list[int]) -> str:
    """Name blocks, consecutive ones as a range."""
    runs = [list(run) for _, run in groupby(enumerate(slots), key=lambda pair: pair[1] - pair[0])]
    shown = [str(run[0][1]) if len(run) == 1 else f"{run[0][1]}-{run[-1][1]}" for run in runs]
    return f"block {shown[0]}" if len(slots) == 1 else f"blocks {', '.join(shown)}"
