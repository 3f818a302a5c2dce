"""The memory that a training needs, found before its first step by what a forward of a few pictures keeps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hwnas.supernet.supernet import Supernet
from hwnas.train.machine import autocast
from hwnas.train.recipe import Recipe
from hwnas.train.seeds import generators_kept

_FEW, _MORE = 2, 4
"""Pictures of the two forwards whose difference counts: what does not grow with the pictures is no matter of them."""
_MOMENTS = {"sgd": 1, "sgdw": 1, "momentum": 1, "nesterov": 1, "lion": 1, "muon": 1, "adagrad": 1}
"""Values that an optimizer keeps for each weight, where they are not two."""


def state_bytes(model: nn.Module, recipe: Recipe) -> int:
    """Weights, gradients, what the optimizer keeps, and the average."""
    trained: int = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    held: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = _MOMENTS.get(recipe.optimiser.name, 2)
    return held * (2 if recipe.ema.decay else 1) + trained * (1 + moments)


def picture_bytes(model: nn.Module, recipe: Recipe, *, input_shape: tuple[int, int, int]) -> int:
    """What the backward of one picture through the largest network of a model needs from its forward.

    The model and the generators are afterwards as they were.
    """
    device = next(model.parameters()).device
    with generators_kept(device), _as_it_was(model), autocast(recipe.precision, device):
        few, more = (_kept_bytes(model, torch.zeros(count, *input_shape, device=device)) for count in (_FEW, _MORE))
    return (more - few) // (_MORE - _FEW)


def _kept_bytes(model: nn.Module, images: Tensor) -> int:
    """What a forward keeps for its backward, each storage once, weights apart."""
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no two of them have one address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage
        return tensor

    given = (images, model.space.largest()) if isinstance(model, Supernet) else (images,)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(*given)
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """After it, statistics of batch norms and modes are as before."""
    modes = [(part, part.training) for part in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
