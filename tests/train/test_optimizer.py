from pathlib import Path

import pytest
import timm

from hwnas.errors import InputError, UnknownNameError
from hwnas.train.checkpoint import TrainState, read_checkpoint, restore, save_checkpoint
from hwnas.train.optimizer import RESUMABLE, make_optimizer, parameter_groups
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
