"""Memory estimates of trainings against real forward passes, and remedies when memory runs out."""

from dataclasses import replace

import pytest
import torch

from hwnas.errors import InputError
from hwnas.space.space import Space
from hwnas.train.memory import (
    MemoryEstimate,
    activation_bytes,
    explain_out_of_memory,
    fit_microbatch,
    memory_warning,
    state_bytes,
)
from hwnas.train.models import build_network, build_supernet, build_timm_model
from hwnas.train.options import TrainOptions, resolve_config
from hwnas.train.presets import MICRO, single_network_recipe
from hwnas.train.recipe import EmaConfig, OptimizerConfig
from tests.train.toys import AUTOFORMER, GLIT, RESNAS, TWINS, VITAS, assert_same, toy_recipe, weights

CONFIG = resolve_config(TrainOptions(space="autoformer-micro", data="digits"), num_classes=10)
NEED = MemoryEstimate(state_bytes=10_000_000, activation_bytes=1_000_000, num_images=128, free_bytes=200_000_000)


def test_what_fits_needs_no_words() -> None:
    assert NEED.total_bytes == 138_000_000
    assert memory_warning(NEED, MICRO) is None
    assert memory_warning(replace(NEED, free_bytes=None), MICRO) is None


def test_a_warning_names_the_batch_that_fits() -> None:
    warning = memory_warning(replace(NEED, free_bytes=50_000_000), MICRO)
    assert warning is not None
    assert warning.startswith(
        "needs about 138 MB of memory, 50 MB are free; try --set grad_accum_steps=4: 128 images per step"
    )
    warning = memory_warning(replace(NEED, free_bytes=10_500_000), MICRO)
    assert warning is not None
    assert warning.endswith("try a smaller --batch")


def test_weights_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(InputError, match=r"optimizer.s state must fit") as caught:
        memory_warning(replace(NEED, free_bytes=5_000_000), MICRO)
    assert caught.value.got == "10 MB, of which 5 MB are free"


def test_microbatches_are_chosen_that_fit_with_room_to_spare() -> None:
    assert fit_microbatch(MICRO, NEED) is MICRO
    assert fit_microbatch(MICRO, replace(NEED, free_bytes=None)) is MICRO
    # 80 % of 100 MB less 10 MB of weights are 70 images of a step of 128.
    halved = fit_microbatch(MICRO, replace(NEED, free_bytes=100_000_000))
    assert (halved.batch_size, halved.grad_accum_steps) == (MICRO.batch_size, 2)
    assert fit_microbatch(MICRO, replace(NEED, free_bytes=50_000_000)).microbatch_size(1) == 16
    assert fit_microbatch(MICRO, replace(NEED, free_bytes=11_000_000)) is MICRO
    # Two processes, each with half of the images of a step and a memory of its own.
    of_two = replace(NEED, num_images=64, free_bytes=50_000_000)
    assert fit_microbatch(MICRO, of_two, processes=2).microbatch_size(2) == 16
    assert fit_microbatch(MICRO, replace(of_two, free_bytes=100_000_000), processes=2) is MICRO


def test_an_allocation_that_fails_says_which_batch_would_fit() -> None:
    with pytest.raises(InputError, match="128 images at once must fit") as caught, explain_out_of_memory(CONFIG):
        torch.empty(1 << 45, dtype=torch.uint8)
    assert caught.value.hint == "--set grad_accum_steps=2: 128 images per step as before, 64 at once"


def kept_by_a_forward(model: torch.nn.Module, shape: tuple[int, int, int], *, num_images: int) -> int:
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(torch.randn(num_images, *shape))
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("space", [AUTOFORMER, RESNAS, VITAS, TWINS, GLIT], ids=lambda space: str(space.family))
def test_images(space: Space) -> None:  # type: ignore[type-arg]
    recipe, shape = toy_recipe(), space.config.input_shape
    network = build_network(space, space.largest(), single_network_recipe(recipe), seed=0)
    before = weights(network.eval())
    estimate = activation_bytes(network, recipe, input_shape=shape)
    assert not network.training
    assert_same(weights(network), before)
    of_supernet = activation_bytes(build_supernet(space, recipe, seed=0), recipe, input_shape=shape)
    assert of_supernet == pytest.approx(estimate, rel=0.05)
    kept = [kept_by_a_forward(network, shape, num_images=count) for count in (2, 10)]
    assert 8 * estimate == pytest.approx(kept[1] - kept[0], rel=0.02)


def test_a_model_of_timm() -> None:
    recipe = toy_recipe()
    model = build_timm_model("timm:test_vit", recipe, image_size=32, num_classes=3, seed=0)
    few, many = (activation_bytes(model, recipe, input_shape=(3, 32, 32)) for _ in range(2))
    assert few == many > 3 * 32 * 32 * 4
    halved = activation_bytes(model, toy_recipe(precision="bf16"), input_shape=(3, 32, 32))
    assert halved < 0.9 * few


def test_weights_and_what_the_optimizer_keeps() -> None:
    supernet = build_supernet(AUTOFORMER, toy_recipe(), seed=0)
    size = sum(weight.nbytes for weight in supernet.parameters())
    assert state_bytes(supernet, toy_recipe()) == 4 * size
    assert state_bytes(supernet, toy_recipe(ema=EmaConfig(decay=0.9))) == 5 * size
    assert state_bytes(supernet, toy_recipe(optimizer=OptimizerConfig(name="sgd"))) == 3 * size
