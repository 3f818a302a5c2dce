"""A network's own weights, put into a supernet from which it can then be run as a slice."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hwnas.space.arch import Arch
from hwnas.supernet.sharing import Part
from hwnas.supernet.supernet import AnySupernet


def scatter(supernet: AnySupernet, arch: Arch, tensors: Mapping[str, Tensor]) -> None:
    """Put the weights of a network where the supernet takes them from; every other weight becomes not a number.

    So a slice that reads one entry too many, or one of another network, does not go unseen.
    """
    shared = dict((*supernet.shared.named_parameters(), *supernet.shared.named_buffers()))
    for name in supernet.shared.state_dict():
        if shared[name].is_floating_point():
            shared[name].data.fill_(torch.nan)
    left = dict(tensors)
    for segment, piece in supernet.path(arch).items():
        for name, source in piece.sources.items():
            if (tensor := left.pop(f"{segment}.{name}", None)) is not None:
                _put(tensor, [(part, shared[part.name]) for part in source])
    assert not left, f"weights that the network does not have: {sorted(left)}"


def _put(tensor: Tensor, parts: list[tuple[Part, Tensor]]) -> None:
    """Each part has the next entries of the first axis."""
    places = [part.take({part.name: torch.arange(target.numel()).view(target.shape)}) for part, target in parts]
    rows = torch.split(tensor, [len(place) for place in places]) if len(parts) > 1 else (tensor,)
    for (_, target), place, entries in zip(parts, places, rows, strict=True):
        assert place.shape == entries.shape
        target.data.view(-1)[place.ravel()] = entries.ravel()
