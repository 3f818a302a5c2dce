"""Retraining of winners: with the recipe, the teacher and the images of their supernet's run."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hwnas.errors import InputError
from hwnas.pipeline.search.accuracy import OpenSupernet
from hwnas.pipeline.search.retraining import require_retrainable, retraining_options, retraining_recipe
from hwnas.runs import Run
from hwnas.search.spec import PostSearch
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_supernet
from hwnas.train.data.images import ArrayDataset
from hwnas.train.data.sources import DataSplits
from hwnas.train.options import PretrainedModel, TrainOptions, read_train_config, resolve_config, resolve_data_config
from hwnas.train.presets import RECIPES, resolve_recipe
from hwnas.train.recipe import TeacherConfig
from tests.search.test_record import SPEC
from tests.train.toys import ELASTIC

SPACE = SPACES.get("autoformer-micro")
TEACHER = PretrainedModel(name="timm:deit_tiny_patch16_224", pretrained=True)
CHANGES = {"optimizer.lr": "1e-3", "mix.mixup": "0.3", "teacher.labels": "hard"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    options = TrainOptions(
        space=SPACE.name, data="digits", data_seed=3, heldout=50, max_images=200, overrides=CHANGES, epochs=7
    )
    config = replace(resolve_config(options, num_classes=10), teacher=TEACHER)
    return Run.create(tmp_path / "supernet", command=(), config=config).path


def retraining(
    run: Path, folder: Path, *, data: str | None = None, hold_out: bool = False, **post_search: Any
) -> TrainOptions:
    assert SPEC.supernet is not None
    supernet = replace(SPEC.supernet, path=run, data=data)
    spec = replace(SPEC, supernet=supernet, post_search=PostSearch(retrain=1, **post_search), seed=5)
    return retraining_options(spec, SPACE.smallest(), space=SPACE, folder=folder, hold_out=hold_out)


def test_recipe_and_teacher_are_those_of_the_supernet(run: Path, tmp_path: Path) -> None:
    options = retraining(run, tmp_path)
    recipe = resolve_recipe(space=SPACE, one_network=True, file=options.config_file, epochs=options.epochs)
    assert (recipe.optimizer.lr, recipe.mix.mixup, recipe.epochs, recipe.strategy.name) == (1e-3, 0.3, 7, "network")
    assert recipe.teacher == TeacherConfig(labels="hard")
    assert options.teacher == TEACHER
    assert (options.supernet, options.heldout, options.seed) == (run, 0, 5)


def test_a_network_from_scratch_has_the_images_of_the_supernet_and_those_held_out(run: Path, tmp_path: Path) -> None:
    config = resolve_config(retraining(run, tmp_path, retrain_from="scratch", retrain_epochs=2), num_classes=10)
    assert (config.supernet, config.space, config.teacher) == (None, SPACE.name, TEACHER)
    assert (config.data.name, config.data.seed, config.data.max_images, config.data.heldout) == ("digits", 3, 200, 0)
    assert (config.recipe.epochs, config.recipe.mix.mixup) == (2, 0.3)
    kept = resolve_config(retraining(run, tmp_path, hold_out=True, retrain_from="scratch"), num_classes=10)
    assert kept.data.heldout == 50


@pytest.mark.parametrize("retrain_from", ["inherited", "scratch"])
def test_other_images_are_split_as_the_search_did(run: Path, tmp_path: Path, retrain_from: str) -> None:
    searched = replace(read_train_config(Run.open(run)).data, name="digits-clutter")
    for hold_out, heldout in ((True, 50), (False, 0)):
        options = retraining(run, tmp_path, data="digits-clutter", hold_out=hold_out, retrain_from=retrain_from)
        assert resolve_data_config(options) == replace(searched, heldout=heldout)


@pytest.mark.parametrize(
    ("space", "retrain_from", "message"),
    [
        (ELASTIC, "scratch", "retrained from the weights that they inherit"),
        (SPACES.get("distilled-resnas-micro"), "scratch", "with the teacher of the run of their supernet"),
        (SPACES.get("distilled-resnas-micro"), "inherited", "with the teacher of the run of their supernet"),
    ],
)
def test_what_cannot_be_retrained_is_refused_before_the_search(
    tmp_path: Path, space: AnySpace, retrain_from: Literal["inherited", "scratch"], message: str
) -> None:
    images = ArrayDataset(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), [])
    data = DataSplits("digits", ("class",) * space.config.num_classes, images, images, None, "")
    path = tmp_path / "supernet.safetensors"
    with torch.device("meta"):
        supernet = OpenSupernet(path=path, supernet=make_supernet(space), digest="abc", data=data, requested_data=None)
    with pytest.raises(InputError, match=message) as caught:
        require_retrainable(supernet, PostSearch(retrain=1, retrain_from=retrain_from))
    assert caught.value.hint is not None


@pytest.mark.parametrize("space", ["resnas-tiny", "resnas-small", "vitas-deit-small"])
def test_from_scratch_a_published_recipe_becomes_that_of_retraining(space: str) -> None:
    family = SPACES.get(space)
    name = resolve_recipe(space=family, one_network=False)
    published = replace(name, precision="fp32", batch_size=512)
    expected = resolve_recipe(space=family, one_network=True)
    assert retraining_recipe(published, family, scratch=True) == replace(expected, precision="fp32", batch_size=512)
    inherited = retraining_recipe(published, family, scratch=False)
    assert (inherited.strategy.name, inherited.epochs, inherited.ema.decay) == ("network", published.epochs, 0)
    assert retraining_recipe(RECIPES.get("micro"), family, scratch=True).epochs == RECIPES.get("micro").epochs


def test_a_file_of_weights_names_no_recipe(tmp_path: Path) -> None:
    options = retraining(tmp_path / "supernet.safetensors", tmp_path)
    assert (options.config_file, options.teacher, options.heldout) == (None, None, 0)
