from pathlib import Path

import pytest
import timm

from hwnas.errors import InputError, UnknownNameError
from hwnas.train.checkpoint import TrainState, read_checkpoint, restore, save_checkpoint
from hwnas.train.optimizer import RESUMABLE, make_optimizer, make_schedule, parameter_groups
from hwnas.train.presets import AUTOFORMER as AUTOFORMER_RECIPE
from hwnas.train.recipe import OptimizerConfig
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
