"""Memory of a training: what it will need, and what to say when it runs out: which batch would fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hwnas.devices.memory import available_bytes, memory_limit
from hwnas.errors import InputError
from hwnas.supernet.supernet import Supernet
from hwnas.train.distributed import World
from hwnas.train.machine import autocast
from hwnas.train.options import TrainConfig
from hwnas.train.recipe import Recipe
from hwnas.train.seeds import preserve_rng_state

_CPU_ALLOCATOR = "can't allocate memory"


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """The memory of a training on one device, as its shapes say."""

    state_bytes: int
    """Of weights, gradients and what the optimizer keeps."""
    activation_bytes: int
    """Of one image in the largest network, forward for backward."""
    images: int
    """At once."""
    free_bytes: int | None
    """What the device has left; None where nobody tells."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.state_bytes + self.images * self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether there is room, as far as one knows."""
        return self.free_bytes is None or self.total_bytes <= self.free_bytes


def estimate_memory(config: TrainConfig, model: nn.Module, world: World) -> MemoryEstimate:
    """What a training will need, before its first step."""
    recipe = config.recipe
    return MemoryEstimate(
        state_bytes=state_bytes(model, recipe),
        activation_bytes=activation_bytes(model, recipe, input_shape=config.image_shape),
        images=recipe.microbatch_size(world.size),
        free_bytes=_free_bytes(world),
    )


def memory_warning(need: MemoryEstimate, recipe: Recipe) -> str | None:
    """What to tell before a training that will hardly fit; None: it fits.

    Weights that do not fit are an error at once. Shapes say less exactly what the rest needs: it is tried.
    """
    if need.fits:
        return None
    assert need.free_bytes is not None
    megabytes = [f"{count / 1e6:,.0f} MB" for count in (need.total_bytes, need.free_bytes, need.state_bytes)]
    if need.state_bytes > need.free_bytes:
        message = "weights, gradients and what the optimizer keeps must fit into memory"
        raise InputError(message, got=f"{megabytes[2]}, of which {megabytes[1]} are free", hint="a smaller space")
    room = (need.free_bytes - need.state_bytes) // max(1, need.activation_bytes)
    hint = _smaller(recipe, most=room * recipe.microbatch_size(1) // need.images) or "a smaller --batch"
    return f"needs about {megabytes[0]} of memory, {megabytes[1]} are free; try {hint}"


@contextmanager
def explain_out_of_memory(config: TrainConfig, world: World | None = None) -> Iterator[None]:
    """Within it, memory that runs out is an error that says how to need less, on a CPU too."""
    try:
        if (world or World()).device.type == "cpu":
            with memory_limit():
                yield
        else:
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _full(config, error) from error
    except RuntimeError as error:
        if _CPU_ALLOCATOR not in str(error):
            raise
        raise _full(config, error) from error


def _full(config: TrainConfig, error: BaseException) -> InputError:
    recipe = config.recipe
    got = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"{recipe.batch_size // recipe.grad_accum_steps} images at once must fit into memory"
    return InputError(message, got=got, hint=_smaller(recipe))


def _free_bytes(world: World) -> int | None:
    if world.device.type == "cuda":
        return int(torch.cuda.mem_get_info(world.device)[0])
    return available_bytes()


def _smaller(recipe: Recipe, *, most: int | None = None) -> str | None:
    """The setting with the next smaller part of a step that can be had, of at most so many images."""
    for parts in range(recipe.grad_accum_steps + 1, recipe.batch_size + 1):
        try:
            at_once = replace(recipe, grad_accum_steps=parts).microbatch_size(1)
        except InputError:
            continue
        if most is None or at_once <= most:
            return f"--set grad_accum_steps={parts}: {recipe.batch_size} images a step as before, {at_once} at once"
    return None


_FEW, _MORE = 2, 4
"""Images of the two forwards whose difference counts: what does not grow with the images is no matter of them."""
_MOMENTS = {"sgd": 1, "sgdw": 1, "momentum": 1, "nesterov": 1, "lion": 1, "muon": 1, "adagrad": 1}
"""Values that an optimizer keeps for each weight, where they are not two."""


def state_bytes(model: nn.Module, recipe: Recipe) -> int:
    """Weights, gradients, what the optimizer keeps, and the average."""
    trained: int = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    held: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = _MOMENTS.get(recipe.optimizer.name, 2)
    return held * (2 if recipe.ema.decay else 1) + trained * (1 + moments)


def activation_bytes(model: nn.Module, recipe: Recipe, *, input_shape: tuple[int, int, int]) -> int:
    """What the backward of one image through the largest network of a model needs from its forward.

    The model and the generators are afterwards as they were.
    """
    device = next(model.parameters()).device
    with preserve_rng_state(device), _as_it_was(model), autocast(recipe.precision, device):
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
