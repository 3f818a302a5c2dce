"""Memory of a training: an estimate before the first step, and a remedy when memory runs out.

The estimate comes from one forward pass of a few images, which shows what autograd saves for the backward pass.
"""

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

_CPU_ALLOCATOR_MESSAGE = "can't allocate memory"

_FEW_IMAGES, _MORE_IMAGES = 2, 4
"""Images of the two forward passes whose difference is that of the images alone."""

_SAFE_SHARE = 0.8
"""Share of the free memory that a microbatch is chosen for: kernels need some of their own."""

_OPTIMIZER_MOMENTS = {"sgd": 1, "sgdw": 1, "momentum": 1, "nesterov": 1, "lion": 1, "muon": 1, "adagrad": 1}
"""Values that an optimizer keeps for each weight; all others keep two."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory that a training needs on one device."""

    state_bytes: int
    """Weights, gradients, the optimizer's state and the average."""
    activation_bytes: int
    """Activations of one image in the largest network that are saved for the backward pass."""
    num_images: int
    """Images of one microbatch."""
    free_bytes: int | None
    """Free memory of the device; None: unknown."""

    @property
    def total_bytes(self) -> int:
        """State and activations of a microbatch."""
        return self.state_bytes + self.num_images * self.activation_bytes

    @property
    def fits(self) -> bool:
        """True unless it is known that memory will not suffice."""
        return self.free_bytes is None or self.total_bytes <= self.free_bytes


def estimate_memory(config: TrainConfig, model: nn.Module, world: World) -> MemoryEstimate:
    """Estimate the memory of a training before its first step."""
    recipe = config.recipe
    on_gpu = world.device.type == "cuda"
    return MemoryEstimate(
        state_bytes=state_bytes(model, recipe),
        activation_bytes=activation_bytes(model, recipe, input_shape=config.image_shape),
        num_images=recipe.microbatch_size(world.size),
        free_bytes=int(torch.cuda.mem_get_info(world.device)[0]) if on_gpu else _share_of_memory(world),
    )


def _share_of_memory(world: World) -> int | None:
    """Return the free memory of a CPU for each process of this machine."""
    free = available_bytes()
    return None if free is None else free // world.local_size


def fit_microbatch(recipe: Recipe, estimate: MemoryEstimate, *, processes: int = 1) -> Recipe:
    """Return the recipe with as many microbatches in a step as memory requires; the images of a step are the same.

    A recipe of which not even the smallest microbatch fits is unchanged.

    Args:
        recipe: The recipe.
        estimate: Memory that one process needs and has.
        processes: Processes that train together.
    """
    if estimate.free_bytes is None or estimate.total_bytes <= _SAFE_SHARE * estimate.free_bytes:
        return recipe
    room = int(_SAFE_SHARE * estimate.free_bytes) - estimate.state_bytes
    fitting = room // max(1, estimate.activation_bytes)
    steps = _accumulation_steps(recipe, at_most=fitting, processes=processes)
    return recipe if steps is None else replace(recipe, grad_accum_steps=steps)


def memory_warning(estimate: MemoryEstimate, recipe: Recipe) -> str | None:
    """Warn of a training that will probably not fit into memory.

    Returns:
        The warning with a remedy, or None if the training fits.

    Raises:
        InputError: Weights, gradients and optimizer alone do not fit. The rest is estimated less exactly, so it is only
            warned about and then tried.
    """
    if estimate.fits:
        return None
    assert estimate.free_bytes is not None
    total, free, state = (
        f"{count / 1e6:,.0f} MB" for count in (estimate.total_bytes, estimate.free_bytes, estimate.state_bytes)
    )
    if estimate.state_bytes > estimate.free_bytes:
        message = "weights, gradients and the optimizer's state must fit into memory"
        raise InputError(message, got=f"{state}, of which {free} are free", hint="a smaller space")
    fitting = (estimate.free_bytes - estimate.state_bytes) // max(1, estimate.activation_bytes)
    hint = _smaller_microbatch(recipe, at_most=fitting * recipe.microbatch_size(1) // estimate.num_images)
    return f"needs about {total} of memory, {free} are free; try {hint or 'a smaller --batch'}"


@contextmanager
def explain_out_of_memory(config: TrainConfig, world: World | None = None) -> Iterator[None]:
    """Turn running out of memory within the context into an InputError with a smaller microbatch as its remedy.

    On a CPU the process is limited to the free memory, so that it gets an error rather than being killed.
    """
    try:
        if (world or World()).device.type == "cpu":
            with memory_limit():
                yield
        else:
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(config.recipe, error) from error
    except RuntimeError as error:
        if _CPU_ALLOCATOR_MESSAGE not in str(error):
            raise
        raise _out_of_memory(config.recipe, error) from error


def state_bytes(model: nn.Module, recipe: Recipe) -> int:
    """Return the memory of weights, gradients, the optimizer's state and the average."""
    trained: int = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    stored: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = _OPTIMIZER_MOMENTS.get(recipe.optimizer.name, 2)
    return stored * (2 if recipe.ema.decay else 1) + trained * (1 + moments)


def activation_bytes(model: nn.Module, recipe: Recipe, *, input_shape: tuple[int, int, int]) -> int:
    """Return the memory of activations that the largest network of a model saves for one image.

    Model and random generators are left as they were.
    """
    device = next(model.parameters()).device
    with preserve_rng_state(device), _preserve_modes_and_buffers(model), autocast(recipe.precision, device):
        few, more = (
            _saved_bytes(model, torch.zeros(count, *input_shape, device=device))
            for count in (_FEW_IMAGES, _MORE_IMAGES)
        )
    return (more - few) // (_MORE_IMAGES - _FEW_IMAGES)


def _out_of_memory(recipe: Recipe, error: BaseException) -> InputError:
    got = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"{recipe.batch_size // recipe.grad_accum_steps} images at once must fit into memory"
    return InputError(message, got=got, hint=_smaller_microbatch(recipe))


def _smaller_microbatch(recipe: Recipe, *, at_most: int | None = None) -> str | None:
    """Return the setting with the next smaller microbatch that is possible, of at most a number of images."""
    steps = _accumulation_steps(recipe, at_most=at_most)
    if steps is None:
        return None
    size = recipe.batch_size // steps
    return f"--set grad_accum_steps={steps}: {recipe.batch_size} images per step as before, {size} at once"


def _accumulation_steps(recipe: Recipe, *, at_most: int | None = None, processes: int = 1) -> int | None:
    """Return the next larger number of microbatches that is possible, each of at most a number of images."""
    for steps in range(recipe.grad_accum_steps + 1, recipe.batch_size + 1):
        try:
            size = replace(recipe, grad_accum_steps=steps).microbatch_size(processes)
        except InputError:
            continue
        if at_most is None or size <= at_most:
            return steps
    return None


def _saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes that a forward pass saves for its backward pass, without the weights."""
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage
        return tensor

    inputs = (images, model.space.largest()) if isinstance(model, Supernet) else (images,)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        model.train()(*inputs)
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def _preserve_modes_and_buffers(model: nn.Module) -> Iterator[None]:
    """Restore training modes and buffers, such as the statistics of batch norms, after the context."""
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
