"""Sorting of units by importance, so that a prefix holds the most important ones.

Units are the hidden units of an MLP or the heads of attention. They are parallel, so their order can change without
changing what the network computes, as long as all their weights move together; what the optimizer and an averaged model
keep of these weights must move too. ViT-ResNAS (https://arxiv.org/abs/2109.00642) sorts at the start of each of its
first epochs. The importance of a unit is the L1 norm of all its weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwnas.errors import InputError


@dataclass(frozen=True, kw_only=True)
class UnitWeights:
    """A tensor that holds weights of the units along one axis, ordered as (parts, units, width of a unit)."""

    name: str
    axis: int = 0
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class UnitGroup:
    """Parallel units and all tensors that hold their weights."""

    units: int | None = None
    """Number of units; None: each entry of the axis is a unit."""
    members: tuple[UnitWeights, ...]


def block_groups(name: str, *, num_heads: int, parts: int = 3) -> tuple[UnitGroup, UnitGroup]:
    """Return the heads and the hidden units of a `TransformerBlock`.

    Args:
        name: Name of the block.
        num_heads: Heads of its attention.
        parts: 3 if the rows of q, k and v are [q | k | v]; 1 if they are interleaved, so that the rows of a head are
            contiguous.
    """
    return (
        UnitGroup(
            units=num_heads,
            members=(
                UnitWeights(name=f"{name}.attention.qkv.weight", parts=parts),
                UnitWeights(name=f"{name}.attention.qkv.bias", parts=parts),
                UnitWeights(name=f"{name}.attention.proj.weight", axis=1),
            ),
        ),
        UnitGroup(
            members=(
                UnitWeights(name=f"{name}.mlp.fc1.weight"),
                UnitWeights(name=f"{name}.mlp.fc1.bias"),
                UnitWeights(name=f"{name}.mlp.fc2.weight", axis=1),
            ),
        ),
    )


@torch.no_grad()
def sort_units(
    module: nn.Module,
    groups: Iterable[UnitGroup],
    *,
    scores: Sequence[Tensor] | None = None,
    optimizer: Optimizer | None = None,
    averages: Sequence[Mapping[str, Tensor]] = (),
) -> None:
    """Sort units by descending importance, in place; equal units keep their order.

    Args:
        module: The module whose parameters the groups name.
        groups: The units to sort.
        scores: The importance of the units of each group; None: the L1 norm of their weights.
        optimizer: Optimizer whose state of these parameters is sorted as well.
        averages: Further tensors by the same names that are sorted as well, such as the state dict of an averaged
            model.

    Raises:
        InputError: The optimizer does not keep its state entry for entry.
    """
    parameters, groups = dict(module.named_parameters()), list(groups)
    names = [member.name for group in groups for member in group.members]
    tensors = {name: _aligned_tensors(name, parameters[name], optimizer, averages) for name in names}
    for index, group in enumerate(groups):
        score = importance(parameters, group) if scores is None else scores[index]
        order = score.argsort(descending=True, stable=True)
        for member in group.members:
            for tensor in tensors[member.name]:
                moved = tensor.movedim(member.axis, 0)
                moved.copy_(_by_unit(tensor, member, len(order))[:, order].reshape(moved.shape))


def importance(tensors: Mapping[str, Tensor], group: UnitGroup) -> Tensor:
    """Return the L1 norm of the tensors' entries of each unit."""
    norms = [_by_unit(tensors[member.name], member, group.units).abs().sum(dim=(0, 2)) for member in group.members]
    return torch.stack(norms).sum(dim=0)


def _by_unit(tensor: Tensor, member: UnitWeights, units: int | None) -> Tensor:
    """Reshape a tensor to (parts, units, weights of a unit)."""
    moved = tensor.movedim(member.axis, 0)
    return moved.reshape(member.parts, units or len(moved) // member.parts, -1)


def _aligned_tensors(
    name: str, parameter: Tensor, optimizer: Optimizer | None, averages: Sequence[Mapping[str, Tensor]]
) -> list[Tensor]:
    """Return a parameter with its gradient, its averages and its optimizer state, all of the same shape."""
    gradient = [] if parameter.grad is None else [parameter.grad]
    state: dict[str, object] = optimizer.state.get(parameter, {}) if optimizer else {}
    moments = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.ndim}
    for key, value in moments.items():
        if value.shape != parameter.shape:
            message = "units can only be sorted with an optimizer that keeps its state entry for entry"
            raise InputError(message, got=f"{key} of another shape than {name}", hint="use AdamW or SGD")
    return [parameter, *gradient, *(average[name] for average in averages), *moments.values()]
