"""Retraining of a winner with the recipe, teacher and images of its supernet, from inherited or fresh weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.config import dump_toml
from hwnas.files import write_atomic
from hwnas.runs import MANIFEST, Run
from hwnas.search.spec import SearchSpec
from hwnas.space.arch import Arch, canonical_json
from hwnas.space.space import AnySpace
from hwnas.train.options import TrainConfig, TrainOptions, read_train_config
from hwnas.train.presets import RECIPES, RETRAIN, default_recipe, single_network_recipe
from hwnas.train.recipe import Recipe

RECIPE = "recipe.toml"
"""File with the recipe of a retraining, in the folder of a winner."""


def retraining_options(
    spec: SearchSpec, arch: Arch, *, space: AnySpace, folder: Path, hold_out: bool = False
) -> TrainOptions:
    """Return the options of retraining a winner on all training images; a recipe is written to its folder.

    A supernet that is a file of weights states neither recipe nor teacher: the default recipe of the space is used.

    Args:
        spec: The search, with a supernet.
        arch: The winner.
        space: Space of its supernet.
        folder: Folder of the winner.
        hold_out: Leave out the images that the search held out, because the winner will be evaluated on them.
    """
    supernet, post_search = spec.supernet, spec.post_search
    assert supernet is not None, "a retrained network without a supernet"
    scratch = post_search.retrain_from == "scratch"
    options = TrainOptions(
        data=supernet.data,
        arch=canonical_json(arch.to_mapping()),
        supernet=None if scratch else supernet.path,
        space=space.name if scratch else None,
        image_size=space.config.image_size if scratch else None,
        epochs=post_search.retrain_epochs,
        seed=spec.seed,
        heldout=None if hold_out else 0,
    )
    if not (supernet.path / MANIFEST).is_file():
        return options
    config = read_train_config(Run.open(supernet.path))
    recipe = retraining_recipe(config.recipe, space, scratch=scratch)
    write_atomic(folder / RECIPE, dump_toml(recipe))
    values = _data_options(config) if scratch and supernet.data is None else {}
    if hold_out and values:
        values["heldout"] = config.data.heldout
    return replace(options, config_file=folder / RECIPE, teacher=config.teacher, **values)


def retraining_recipe(recipe: Recipe, space: AnySpace, *, scratch: bool) -> Recipe:
    """Adapt the recipe of a supernet to one of its networks.

    Args:
        recipe: Recipe of the supernet.
        space: Its space.
        scratch: Train from fresh weights. The published recipe of a family is then replaced by the one that its paper
            retrains with, if there is one; precision and batch size stay.
    """
    name = default_recipe(space)
    batches: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "grad_accum_steps": recipe.grad_accum_steps,
        "precision": recipe.precision,
    }
    if scratch and name + RETRAIN in RECIPES and recipe == replace(RECIPES.get(name), **batches):
        return replace(RECIPES.get(name + RETRAIN), **batches)
    return single_network_recipe(recipe, patches=recipe.regularization.patch_loss)


def _data_options(config: TrainConfig) -> dict[str, Any]:
    """Return the options that name the images of a training."""
    data = config.data
    return {
        "data": data.name,
        "root": data.root,
        "download": data.download,
        "data_seed": data.seed,
        "max_images": data.max_images,
        "max_bad": data.max_bad,
    }
