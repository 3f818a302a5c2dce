from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hwnas.train.data.loader import Batch
from hwnas.train.models import build_network
from hwnas.train.presets import single_network_recipe
from hwnas.train.recipe import (
    EmaConfig,
    InitializationConfig,
    MixConfig,
    OptimizerConfig,
    Recipe,
    RegularizationConfig,
    TeacherConfig,
)
from tests.train.toys import (
    AUTOFORMER,
    GLIT,
    RESNAS,
    VITAS,
    assert_same,
    first_step,
    stepper,
    toy_loader,
    toy_recipe,
    weights,
)


def one_batch(recipe: Recipe, space: Any = AUTOFORMER) -> Batch:
    return next(toy_loader(space, recipe).epoch(0))


def test_parts_of_a_step_add_up_to_the_whole() -> None:
    sgd = OptimizerConfig(name="momentum", lr=0.1)  # Adam divides by the size of a gradient: rounding would show
    whole, parts = toy_recipe(optimizer=sgd), toy_recipe(optimizer=sgd, grad_accum_steps=4)
    batch = one_batch(whole)
    pieces = [
        Batch(*(part[4 * n : 4 * n + 4] for part in (batch.images, batch.labels, batch.indices))) for n in range(4)
    ]
    one, other = stepper(AUTOFORMER, whole), stepper(AUTOFORMER, parts)
    result = one.run(0, [batch], one.draw_networks(0))
    accumulated = other.run(0, pieces, other.draw_networks(0))
    assert accumulated.loss == pytest.approx(result.loss, rel=1e-5)
    for name, tensor in weights(one.model).items():
        torch.testing.assert_close(weights(other.model)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_step_is_a_function_of_its_number_and_not_of_what_was_drawn_before() -> None:
    recipe = toy_recipe(regularization=RegularizationConfig(drop_path=0.3), mix=MixConfig(mixup=0.8, cutmix=1.0))
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        training = stepper(AUTOFORMER, recipe)
        torch.rand(noise)
        first_step(training, one_batch(recipe))
        results.append(weights(training.model))
    assert_same(*results)


def test_the_average_is_of_all_weights_so_far() -> None:
    recipe = toy_recipe(ema=EmaConfig(decay=0.75))
    training, batch = stepper(AUTOFORMER, recipe), one_batch(recipe)
    expected: dict[str, Tensor] = {}
    for step in range(3):
        training.run(step, [batch], training.draw_networks(step))
        for name, tensor in weights(training.model).items():
            expected[name] = tensor if step == 0 else 0.75 * expected[name] + 0.25 * tensor
    assert training.state.ema is not None
    for name, tensor in weights(training.state.ema).items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("unused_weights", ["skip", "decay"])
def test_what_becomes_of_weights_that_no_network_used(unused_weights: Any) -> None:
    recipe = toy_recipe(unused_weights=unused_weights, optimizer=OptimizerConfig(lr=0.1, weight_decay=0.5))
    training, batch = stepper(VITAS, recipe), one_batch(recipe, VITAS)
    before = weights(training.model)
    networks = training.draw_networks(0)
    training.run(0, [batch], networks)
    stem = VITAS.config.patch_sizes.index(networks.archs[0].patch_size)  # type: ignore[attr-defined]
    idle = f"shared.stems.{1 - stem}.patch_embed.weight"
    factor = 1.0 if unused_weights == "skip" else 1 - 0.1 * 0.5
    torch.testing.assert_close(weights(training.model)[idle], factor * before[idle])
    busy = f"shared.stems.{stem}.patch_embed.weight"
    assert not torch.allclose(weights(training.model)[busy], factor * before[busy])


def test_gradients_are_clipped_and_their_norm_is_told() -> None:
    recipe = toy_recipe(
        optimizer=OptimizerConfig(name="momentum", lr=1.0, momentum=0.0, weight_decay=0.0),
        regularization=RegularizationConfig(clip_grad=0.01),
    )
    training = stepper(AUTOFORMER, recipe)
    before = weights(training.model)
    result = first_step(training, one_batch(recipe))
    moved = [((weights(training.model)[name] - tensor) ** 2).sum() for name, tensor in before.items()]
    assert result.grad_norm is not None
    assert result.grad_norm > 0.01
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_weights_that_are_exempt_do_not_decay() -> None:
    recipe = toy_recipe(optimizer=OptimizerConfig(lr=0.1, weight_decay=0.5, no_weight_decay=("class_token",)))
    training = stepper(VITAS, replace(recipe, unused_weights="decay"))
    before = weights(training.model)
    networks = training.draw_networks(0)
    training.run(0, [one_batch(recipe, VITAS)], networks)
    stem = 1 - VITAS.config.patch_sizes.index(networks.archs[0].patch_size)  # type: ignore[attr-defined]
    after = weights(training.model)
    for name, factor in (("class_token", 1.0), ("patch_embed.bias", 1.0), ("position", 0.95)):
        key = f"shared.stems.{stem}.{name}"
        torch.testing.assert_close(after[key], factor * before[key])


def test_bf16_trains_in_single_precision_weights() -> None:
    recipe = toy_recipe(precision="bf16")
    training, plain = stepper(AUTOFORMER, recipe), stepper(AUTOFORMER, toy_recipe())
    batch = one_batch(recipe)
    result, exact = first_step(training, batch), first_step(plain, batch)
    assert result.loss != exact.loss
    assert result.loss == pytest.approx(exact.loss, rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in weights(training.model).values())


def test_a_teacher_is_asked_for_the_mixed_images() -> None:
    recipe = toy_recipe(teacher=TeacherConfig(labels="soft", weight=1.0), mix=MixConfig(mixup=0.8))
    teacher = build_network(AUTOFORMER, AUTOFORMER.largest(), single_network_recipe(recipe), seed=9).eval()
    with torch.no_grad():
        teacher.get_parameter("head.classifier.weight").mul_(20)  # one that is sure of its answers
    asked: list[Tensor] = []
    teacher.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0]))
    training = stepper(AUTOFORMER, recipe, teacher=teacher)
    batch = one_batch(recipe)
    losses = [training.run(step, [batch], training.draw_networks(step)).loss for step in range(30)]
    assert len(asked) == 30
    assert not torch.equal(asked[0], batch.images)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert not any(parameter.grad is not None for parameter in teacher.parameters())


def test_rates_follow_warm_up_and_cosine() -> None:
    recipe = toy_recipe(epochs=10)
    recipe = replace(recipe, schedule=replace(recipe.schedule, warmup_epochs=2, warmup_lr=0.0, min_lr=0.0))
    recipe = replace(recipe, optimizer=OptimizerConfig(lr=1.0, lr_base_size=8))  # batches of 16: twice
    training, batch = stepper(AUTOFORMER, recipe, steps_per_epoch=2), one_batch(recipe)
    rates = [training.run(step, [batch], training.draw_networks(step)).lr for step in range(20)]
    assert rates[:4] == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert rates[10] == pytest.approx(1.0)  # half of all steps: cosine of a right angle
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_fan_in_starts_by_the_number_of_inputs() -> None:
    recipe = toy_recipe(initialization=InitializationConfig(weights="fan-in", token_std=0.5))
    space = RESNAS
    training = stepper(space, recipe)
    found = weights(training.model)
    convolution = found["shared.stem.conv2.conv.weight"]
    assert convolution.std().item() == pytest.approx((convolution[0].numel()) ** -0.5, rel=0.2)
    assert found["shared.tokens.position"].std().item() == pytest.approx(0.5, rel=0.25)
    assert not found["shared.head.classifier.bias"].any()


READS = ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero")
"""Methods of tensors that wait until a device has computed them."""


class CountedReads(TorchFunctionMode):
    """Counts the reads of tensors in Python."""

    reads = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))


class CountedScalars(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the values that torch itself reads."""

    reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("space", [AUTOFORMER, RESNAS, VITAS, GLIT], ids=lambda space: str(space.family))
def test_a_step_waits_for_its_device_once(space: Any) -> None:
    recipe = toy_recipe(
        precision="bf16",
        grad_accum_steps=2,
        ema=EmaConfig(decay=0.5),
        mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1),
        regularization=RegularizationConfig(clip_grad=1.0, drop_path=0.2),
    )
    training, batches = stepper(space, recipe), list(toy_loader(space, recipe).epoch(0))
    training.run(0, batches[:2], training.draw_networks(0))  # which fills caches
    networks = training.draw_networks(1)
    with CountedReads() as functions, CountedScalars() as scalars:  # type: ignore[no-untyped-call]
        result = training.run(1, batches[2:4], networks, meanwhile=lambda: (1.0, 0.0))
    assert (functions.reads, scalars.reads) == (1, 0)
    assert result.votes == (1.0, 0.0)
