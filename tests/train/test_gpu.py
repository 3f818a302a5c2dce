"""Training on a CUDA device: precisions, resuming, evaluation. The same code runs on a CPU elsewhere."""

from pathlib import Path
from statistics import mean

import pytest
import torch

from hwnas.space.space import AnySpace
from hwnas.supernet.supernet import Supernet
from hwnas.train.distributed import World
from hwnas.train.evaluator import evaluate_module
from hwnas.train.metrics_file import read_metrics
from hwnas.train.models import build_network
from hwnas.train.presets import single_network_recipe
from hwnas.train.recipe import MixConfig, RegularizationConfig, StrategyConfig
from tests.train.toys import AUTOFORMER, EVERY_STEP, GLIT, RESNAS, toy_loader, toy_recipe, toy_trainer

pytestmark = pytest.mark.gpu

WORLD = World(device=torch.device("cuda", 0))


@pytest.mark.parametrize("space", [AUTOFORMER, RESNAS, GLIT], ids=lambda space: str(space.family))
@pytest.mark.parametrize(("precision", "clip"), [("fp32", 0.0), ("bf16", 1.0), ("fp16", 0.0), ("fp16", 1.0)])
def test_a_supernet_learns(space: AnySpace, precision: str, clip: float, tmp_path: Path) -> None:
    recipe = toy_recipe(epochs=6, precision=precision, regularization=RegularizationConfig(clip_grad=clip))
    trainer = toy_trainer(tmp_path / "run", space, recipe, world=WORLD)
    outcome = trainer.run()
    losses = [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert len(losses) == outcome.steps == 36
    assert mean(losses[-6:]) < 0.8 * mean(losses[:6])
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {WORLD.device.type}


def test_mixing_accumulating_and_the_sandwich_rule(tmp_path: Path) -> None:
    recipe = toy_recipe(
        precision="bf16",
        grad_accum_steps=2,
        mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1),
        strategy=StrategyConfig(name="sandwich", num_networks=1),
    )
    assert toy_trainer(tmp_path / "run", AUTOFORMER, recipe, world=WORLD).run().steps == 18


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stopped_training_goes_on(precision: str, tmp_path: Path) -> None:
    recipe = toy_recipe(precision=precision)
    whole = toy_trainer(tmp_path / "whole", AUTOFORMER, recipe, world=WORLD, config=EVERY_STEP)
    whole.run()
    for late in sorted((tmp_path / "whole" / "checkpoints").iterdir())[1:]:
        late.unlink()
    resumed = toy_trainer(tmp_path / "whole", AUTOFORMER, recipe, world=WORLD, config=EVERY_STEP)
    resumed.run(resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.allclose(resumed.model.state_dict()[name], tensor, rtol=1e-2, atol=1e-4), name


def test_blocks_of_a_network_are_compiled(tmp_path: Path) -> None:
    recipe = single_network_recipe(toy_recipe(precision="bf16"))
    network = build_network(AUTOFORMER, AUTOFORMER.largest(), recipe, seed=0)
    trainer = toy_trainer(
        tmp_path / "run", AUTOFORMER, recipe, world=WORLD, model=network, batches=toy_loader(AUTOFORMER, recipe)
    )
    assert trainer.run().steps == 18


def test_accuracies_are_those_of_the_cpu(tmp_path: Path) -> None:
    recipe = toy_recipe()
    trainer = toy_trainer(tmp_path / "run", AUTOFORMER, recipe, world=WORLD)
    trainer.run()
    assert isinstance(trainer.model, Supernet)
    batches = list(toy_loader(AUTOFORMER, recipe).epoch(0))
    network = trainer.model.eval().subnet(AUTOFORMER.largest())
    there = evaluate_module(network, batches, device=WORLD.device)
    lower = evaluate_module(network, batches, device=WORLD.device, precision="bf16")
    here = evaluate_module(network.cpu(), batches)
    assert there.top1 == pytest.approx(here.top1, abs=0.03)
    assert lower.top1 == pytest.approx(here.top1, abs=0.06)
    assert there.loss == pytest.approx(here.loss, rel=1e-2)
