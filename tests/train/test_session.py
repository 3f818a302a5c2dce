import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwnas.errors import InputError
from hwnas.supernet.families import make_supernet
from hwnas.supernet.store import load_network, load_supernet
from hwnas.train.data.images import ArrayDataset, BadImageLog
from hwnas.train.data.sources import DataSplits
from hwnas.train.models import build_network, build_supernet, build_timm_model, inherit_network
from hwnas.train.presets import RESNAS, single_network_recipe
from hwnas.train.recipe import EmaConfig, RegularizationConfig
from hwnas.train.session import Extremes, make_train_loader, run_training
from hwnas.train.weights import SpaceOrigin, TimmOrigin, load_model, save_weights
from tests.train.toys import AUTOFORMER, ToyLoader, assert_same, toy_loader, toy_recipe, toy_trainer, weights
from tests.train.toys import RESNAS as RESNAS_SPACE


def test_a_supernet_is_trained_evaluated_and_saved(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, AUTOFORMER, toy_recipe())
    modes: list[bool] = []

    def evaluate(supernet: Any) -> Extremes:
        modes.append(supernet.training)
        return Extremes(accuracies={"smallest": 0.5, "largest": 0.75})

    result = run_training(trainer, evaluate=evaluate)
    assert (result.weights, result.uses_ema) == (tmp_path / "supernet.safetensors", False)
    assert modes == [False]
    assert_same(weights(load_supernet(result.weights)), weights(trainer.model))
    values = json.loads((tmp_path / "result.json").read_text())
    assert values["weights"] == "last"
    assert values["accuracies"] == {"smallest": 0.5, "largest": 0.75}
    assert values["steps"] == 18


def test_the_average_is_what_is_saved(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, AUTOFORMER, toy_recipe(ema=EmaConfig(decay=0.8)))
    result = run_training(trainer)
    assert result.uses_ema
    average = trainer._stepper.state.ema
    assert average is not None
    assert_same(weights(load_supernet(result.weights)), weights(average))
    assert json.loads((tmp_path / "result.json").read_text())["weights"] == "ema"


def test_a_network_goes_on_from_what_its_supernet_knows(tmp_path: Path) -> None:
    recipe = replace(single_network_recipe(toy_recipe()), regularization=RegularizationConfig(drop_path=0.2))
    supernet, arch = build_supernet(AUTOFORMER, toy_recipe(), seed=1), AUTOFORMER.largest()
    network = inherit_network(supernet, arch, recipe)
    images = next(toy_loader(AUTOFORMER, recipe).epoch(0)).images
    torch.testing.assert_close(network.eval()(images), supernet.eval()(images, arch))
    assert network.get_submodule("blocks.2.drop_path").drop_prob == 0.2
    result = run_training(
        toy_trainer(tmp_path, AUTOFORMER, recipe, model=network), origin=SpaceOrigin(space=AUTOFORMER, arch=arch)
    )
    stored = load_network(result.weights)
    assert stored.arch == arch
    assert_same(weights(stored.network), weights(network))


def test_a_model_of_timm_is_trained_too(tmp_path: Path) -> None:
    recipe = single_network_recipe(toy_recipe(epochs=1))
    model = build_timm_model("timm:test_vit", recipe, image_size=32, num_classes=3, seed=0)
    batches = toy_loader(AUTOFORMER, recipe)
    batches.images = torch.nn.functional.interpolate(batches.images[:, :1].expand(-1, 3, -1, -1), size=32)
    origin = TimmOrigin(name="test_vit", image_size=32, num_classes=3)
    result = run_training(toy_trainer(tmp_path, AUTOFORMER, recipe, model=model, batches=batches), origin=origin)
    loaded = load_model(result.weights)
    assert_same(weights(loaded), weights(model))
    assert loaded.input_shape == (3, 32, 32)


def test_fresh_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, same, other = (build_supernet(AUTOFORMER, toy_recipe(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert_same(weights(one), weights(same))
    name = "shared.blocks.0.mlp.fc1.weight"
    assert not torch.equal(weights(one)[name], weights(other)[name])


def test_patches_are_classified_where_the_recipe_says_so() -> None:
    recipe = single_network_recipe(RESNAS, patches=True)
    network = build_network(RESNAS_SPACE, RESNAS_SPACE.largest(), recipe, seed=0)
    logits, patches = network.train()(torch.zeros(2, 3, 16, 16))
    assert (logits.shape, patches.shape) == ((2, 3), (2, 4, 3))
    plain = build_network(RESNAS_SPACE, RESNAS_SPACE.largest(), single_network_recipe(RESNAS), seed=0)
    assert plain.train()(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


def test_weights_need_to_say_what_they_are(tmp_path: Path) -> None:
    network = make_supernet(AUTOFORMER).subnet(AUTOFORMER.smallest())
    with pytest.raises(InputError, match="with its space and arch, or with its name in timm"):
        save_weights(network, tmp_path)


def make_images(count: int) -> DataSplits:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = ArrayDataset(
        rng.integers(0, 255, (count, 15, 15, 3), dtype=np.uint8), labels, [str(key) for key in range(count)]
    )
    return DataSplits("toy", ("a", "b", "c"), images, images, None, "print")


def test_batches_are_as_large_as_a_process_can_take() -> None:
    recipe = toy_recipe(grad_accum_steps=2)
    batches = make_train_loader(make_images(40), recipe, image_shape=(3, 15, 15), seed=0)
    assert (len(batches), len(next(batches.epoch(0)))) == (5, 8)


def test_too_few_images_for_a_batch() -> None:
    with pytest.raises(InputError, match="at least 16 training images, a full batch"):
        make_train_loader(make_images(10), toy_recipe(), image_shape=(3, 15, 15), seed=0)


def test_weights_outlive_an_evaluation_that_fails(tmp_path: Path) -> None:
    def evaluate(supernet: Any) -> Extremes:
        raise OSError("the held-out images are gone")

    with pytest.raises(OSError, match="are gone"):
        run_training(toy_trainer(tmp_path, AUTOFORMER, toy_recipe(epochs=1)), evaluate=evaluate)
    first = json.loads((tmp_path / "result.json").read_text())
    assert (first["accuracies"], first["bad_images"]) == ({}, 0)
    trainer = toy_trainer(tmp_path, AUTOFORMER, toy_recipe(epochs=1))
    result = run_training(trainer, evaluate=lambda _: Extremes(accuracies={"largest": 0.5}), resume=True)
    assert_same(weights(load_supernet(result.weights)), weights(trainer.model))
    assert json.loads((tmp_path / "result.json").read_text()) == {**first, "accuracies": {"largest": 0.5}}


class Spoilt(ToyLoader):
    bad = BadImageLog(reasons={"a.png": "cut off"})


def test_images_that_could_not_be_read_are_told(tmp_path: Path) -> None:
    plain = toy_loader(AUTOFORMER, toy_recipe())
    batches = Spoilt(plain.images, plain.labels, plain.batch_size)
    result = run_training(toy_trainer(tmp_path, AUTOFORMER, toy_recipe(epochs=1), batches=batches))
    assert result.bad_images == ("a.png",)
    values = json.loads((tmp_path / "result.json").read_text())
    assert (values["bad_images"], values["first_bad_images"]) == (1, ["a.png"])


def test_batches_count_what_they_cannot_read_where_they_are_told() -> None:
    bad = BadImageLog(limit=3)
    assert make_train_loader(make_images(40), toy_recipe(), image_shape=(3, 15, 15), seed=0, bad=bad).bad is bad
