"""Weights carried over to other images and classes: positions interpolated, classifiers of other classes fresh."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.supernet.positions import resize_positions

_POSITIONS = ("position", "pos_embed")
_CLASSIFIERS = ("classifier", "patch_classifier", "head")


@torch.no_grad()
def carry_over(weights: Mapping[str, Tensor], module: nn.Module) -> tuple[str, ...]:
    """Copy weights into a module of the same structure, and say which of its tensors keep the values that they have.

    Position tables are interpolated to the module's grid. A classifier for another number of classes is left alone; any
    other tensor of another shape is an error.
    """
    targets = dict((*module.named_parameters(), *_kept_buffers(module)))
    if targets.keys() != weights.keys():
        names = ", ".join(sorted(targets.keys() ^ weights.keys())[:3])
        raise InputError("the weights must be those of the same network", got=f"{names} on one side only")
    fresh = []
    for name, target in targets.items():
        tensor = _fitted(name, weights[name], target)
        if tensor is None:
            fresh.append(name)
        else:
            target.copy_(tensor)
    return tuple(fresh)


def _fitted(name: str, tensor: Tensor, target: Tensor) -> Tensor | None:
    *_, parent, last = ("", *name.split("."))
    if tensor.shape == target.shape:
        return tensor
    if last in _POSITIONS and tensor.ndim == 3:
        return resize_positions(tensor, tokens=target.shape[1])
    if parent in _CLASSIFIERS and tensor.shape[1:] == target.shape[1:]:
        return None
    raise InputError(f"{name} must have the shape {tuple(target.shape)}", got=tuple(tensor.shape))


def _kept_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    kept = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in kept]
