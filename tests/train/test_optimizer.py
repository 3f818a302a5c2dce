import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm

from hwnas.errors import InputError, UnknownNameError
from hwnas.train.checkpoint import TrainState, read_checkpoint, restore, save_checkpoint
from hwnas.train.optimizer import RESUMABLE, make_optimizer, make_schedule, parameter_groups
from hwnas.train.presets import AUTOFORMER as AUTOFORMER_RECIPE
from hwnas.train.presets import RECIPES
from hwnas.train.recipe import OptimizerConfig, Recipe, ScheduleConfig
from hwnas.train.step import Stepper
from tests.train.toys import AUTOFORMER, assert_same, stepper, toy_loader, toy_recipe, weights


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_checkpoint_keeps_all_that_an_optimizer_knows(name: str, tmp_path: Path) -> None:
    recipe = toy_recipe(optimizer=OptimizerConfig(name=name, lr=1e-3))
    batches = list(toy_loader(AUTOFORMER, recipe).epoch(0))

    def trained(training: Stepper, steps: range) -> None:
        for step in steps:
            training.run(step, [batches[step]], training.draw_networks(step))

    whole = stepper(AUTOFORMER, recipe)
    trained(whole, range(3))
    state = TrainState(model=whole.state.model, optimizer=whole.state.optimizer)
    values = {"epoch": 0, "seed": 0, "data": "", "recipe": {}, "model": {}, "world_size": 1, "device": "cpu"}
    machine = {"scaler": {}, "threads": 1, "matmul_backend": "default"}
    path = save_checkpoint(tmp_path, state, {"step": 3, **values, **machine})
    trained(whole, range(3, 6))
    resumed = stepper(AUTOFORMER, recipe)
    restore(read_checkpoint(path), resumed.state)
    trained(resumed, range(3, 6))
    assert_same(weights(resumed.model), weights(whole.model))


def rates(recipe: Recipe, steps: range, *, steps_per_epoch: int) -> list[float]:
    training = stepper(AUTOFORMER, recipe, steps_per_epoch=steps_per_epoch)
    (batch,) = list(toy_loader(AUTOFORMER, recipe, num_images=16).epoch(0))
    return [training.run(step, [batch], training.draw_networks(step)).lr for step in steps]


def test_the_rate_of_autoformer_changes_with_the_epochs() -> None:
    schedule = ScheduleConfig(interval="epoch", warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-5)
    recipe = toy_recipe(epochs=5, optimizer=OptimizerConfig(lr=1e-3), schedule=schedule)
    expected = [1e-6 + epoch * (1e-3 - 1e-6) / 2 for epoch in range(2)]
    expected += [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(2, 5)]
    found = rates(recipe, range(15), steps_per_epoch=3)
    assert found == pytest.approx([rate for rate in expected for _ in range(3)])
    by_epoch = {name: RECIPES.get(name).schedule.interval for name in ("autoformer", "resnas", "glit", "vitas")}
    assert by_epoch == {"autoformer": "epoch", "resnas": "epoch", "glit": "epoch", "vitas": "step"}


def test_the_rate_of_vitas_rises_from_0_and_falls_after_the_warm_up() -> None:
    schedule = replace(RECIPES.get("vitas").schedule, warmup_epochs=2)
    recipe = toy_recipe(epochs=5, optimizer=OptimizerConfig(lr=1e-3), schedule=schedule)
    expected = [1e-3 * step / 6 for step in range(6)]
    expected += [0.5e-3 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert rates(recipe, range(15), steps_per_epoch=3) == pytest.approx(expected)


def test_optimizers_that_cannot_be_resumed_are_refused() -> None:
    model = timm.create_model("test_vit")
    with pytest.raises(InputError, match=r"(?s)must be resumable exactly, which it is with .*adamw.* adan"):
        make_optimizer(model, OptimizerConfig(name="adan"), batch_size=1)
    with pytest.raises(UnknownNameError, match="adamw"):
        make_optimizer(model, OptimizerConfig(name="adamv"), batch_size=1)


def test_tokens_and_positions_of_timm_do_not_decay() -> None:
    model = timm.create_model("test_vit")
    (exempt,) = [
        group["params"] for group in parameter_groups(model, AUTOFORMER_RECIPE.optimizer) if not group["weight_decay"]
    ]
    spared = {id(parameter) for parameter in exempt}
    assert {id(model.cls_token), id(model.pos_embed)} <= spared
    assert id(model.get_parameter("patch_embed.proj.weight")) not in spared


@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224"])
def test_layer_decay_lowers_the_rate_from_the_head_to_the_patches(name: str) -> None:
    model = timm.create_model(name, depth=3, num_classes=4)
    optimizer = make_optimizer(model, OptimizerConfig(lr=1e-2, layer_decay=0.5), batch_size=1)
    scales = {id(value): group["lr_scale"] for group in optimizer.param_groups for value in group["params"]}
    found = {name: scales[id(parameter)] for name, parameter in model.named_parameters()}
    expected = {"head.weight": 1.0, "blocks.2.mlp.fc2.weight": 0.5, "blocks.0.attn.proj.bias": 0.125}
    assert {name: found[name] for name in expected} == expected
    assert {found[name] for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {0.0625}
    schedule = make_schedule(optimizer, toy_recipe(epochs=2), steps_per_epoch=4)
    schedule.step_update(4)
    rates = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
    assert rates[0.5] == pytest.approx(rates[1.0] / 2)
    assert optimizer.param_groups[0]["lr_scale"] == 1.0  # the rate that a step reports


def test_layer_decay_needs_blocks() -> None:
    with pytest.raises(InputError, match="layer_decay needs a model with blocks"):
        make_optimizer(timm.create_model("test_resnet"), OptimizerConfig(layer_decay=0.5), batch_size=1)
