"""The most important units first, so that a prefix holds them: hidden units of MLPs and heads of attention.

Units that stand in parallel can change their places without a change of what the network computes, as long as all
their weights move together, and with the weights whatever the optimizer and an average remember of them.
ViT-ResNAS sorts at the start of each of its first epochs. A unit's importance is the L1 norm of all its weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hwnas.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Member:
    """A tensor with weights of the units along one axis, which is (parts, units, width of a unit) in this order."""

    name: str
    axis: int = 0
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class Group:
    """Units that may change their places, and all tensors that hold their weights."""

    units: int | None = None
    """How many; None: each entry of the axis is one."""
    members: tuple[Member, ...]


def block_groups(name: str, *, num_heads: int, parts: int = 3) -> tuple[Group, Group]:
    """The heads and the hidden units of a block with `attention.qkv`, `attention.proj`, `mlp.fc1` and `mlp.fc2`.

    The rows of q, k and v are [q | k | v] for three parts; where they are interleaved, heads are rows side by side in
    one part.
    """
    return (
        Group(
            units=num_heads,
            members=(
                Member(name=f"{name}.attention.qkv.weight", parts=parts),
                Member(name=f"{name}.attention.qkv.bias", parts=parts),
                Member(name=f"{name}.attention.proj.weight", axis=1),
            ),
        ),
        Group(
            members=(
                Member(name=f"{name}.mlp.fc1.weight"),
                Member(name=f"{name}.mlp.fc1.bias"),
                Member(name=f"{name}.mlp.fc2.weight", axis=1),
            ),
        ),
    )


@torch.no_grad()
def sort_units(
    module: nn.Module,
    groups: Iterable[Group],
    *,
    optimizer: Optimizer | None = None,
    averages: Sequence[Mapping[str, Tensor]] = (),
) -> None:
    """Sort units by importance, descending, in place; equal ones keep their order.

    What the optimizer holds of a parameter moves with it, and so do its gradient and the tensors of its name in
    `averages` (the state dict of an averaged model, say).
    """
    parameters, groups = dict(module.named_parameters()), list(groups)
    names = [member.name for group in groups for member in group.members]
    held = {name: _all_of(name, parameters[name], optimizer, averages) for name in names}
    for group in groups:
        order = importance(parameters, group).argsort(descending=True, stable=True)
        for member in group.members:
            for tensor in held[member.name]:
                _reorder(tensor, member, order)


def importance(tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    """The L1 norm of the weights of each unit."""
    norms = [_by_unit(tensors[member.name], member, group.units).abs().sum(dim=(0, 2)) for member in group.members]
    return torch.stack(norms).sum(dim=0)


def _by_unit(tensor: Tensor, member: Member, units: int | None) -> Tensor:
    """(parts, units, weights of a unit)."""
    moved = tensor.movedim(member.axis, 0)
    return moved.reshape(member.parts, units or len(moved) // member.parts, -1)


def _reorder(tensor: Tensor, member: Member, order: Tensor) -> None:
    moved = tensor.movedim(member.axis, 0)
    moved.copy_(_by_unit(tensor, member, len(order))[:, order].reshape(moved.shape))


def _all_of(
    name: str, parameter: Tensor, optimizer: Optimizer | None, averages: Sequence[Mapping[str, Tensor]]
) -> list[Tensor]:
    """The parameter and all that is kept of it, entry for entry."""
    gradient = [] if parameter.grad is None else [parameter.grad]
    return [parameter, *gradient, *(average[name] for average in averages), *_state(name, parameter, optimizer)]


def _state(name: str, parameter: Tensor, optimizer: Optimizer | None) -> list[Tensor]:
    """What the optimizer keeps of a parameter, apart from single numbers."""
    state: dict[str, object] = optimizer.state.get(parameter, {}) if optimizer else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.ndim}
    for key, value in tensors.items():
        if value.shape != parameter.shape:
            message = "units can only be sorted with an optimizer that keeps its state entry for entry"
            raise InputError(message, got=f"{key} of another shape than {name}", hint="use AdamW or SGD")
    return list(tensors.values())
