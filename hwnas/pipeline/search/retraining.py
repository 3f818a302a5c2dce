"""Retraining of a winner with the recipe, teacher and images of its supernet, from inherited or fresh weights."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.config import dump_toml
from hwnas.errors import InputError
from hwnas.files import write_atomic
from hwnas.runs import MANIFEST, Run
from hwnas.search.spec import PostSearch, SearchSpec
from hwnas.space.arch import Arch, canonical_json
from hwnas.space.elastic import Elastic
from hwnas.space.resnas import ResNas
from hwnas.space.space import AnySpace
from hwnas.train.data.sources import DataConfig
from hwnas.train.options import TrainOptions, read_train_config
from hwnas.train.presets import RECIPES, RETRAIN, default_recipe, single_network_recipe
from hwnas.train.recipe import Recipe

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import OpenSupernet

RECIPE = "recipe.toml"
"""File with the recipe of a retraining, in the folder of a winner."""


def require_retrainable(supernet: "OpenSupernet", post_search: PostSearch) -> None:
    """Raise an InputError if networks of a supernet cannot be retrained in the requested way."""
    space, classes = supernet.space, len(supernet.data.classes)
    if space.config.task_head is not None:
        message = "a search retrains networks for classification"
        hint = "hwnas train --arch ID --supernet RUN"
        raise InputError(message, got=f"{space.name}, a space of detectors or segmenters", hint=hint)
    if classes != space.config.num_classes:
        message = "networks are retrained on images of the classes that they answer"
        got = f"{classes} classes in {supernet.data.name}, not {space.config.num_classes}"
        raise InputError(message, got=got, hint="leave out --retrain; --repair needs no classes")
    if isinstance(space, Elastic) and post_search.retrain_from == "scratch":
        message = "networks inside a pretrained model are retrained from the weights that they inherit"
        raise InputError(message, got="--retrain-from scratch", hint="--retrain-from inherited")
    if isinstance(space, ResNas) and space.config.distillation and not (supernet.path / MANIFEST).is_file():
        message = "networks with a distillation token are retrained with the teacher of the run of their supernet"
        got = f"{supernet.path}, a file of weights, which names no teacher"
        raise InputError(message, got=got, hint="--supernet RUN, or leave out --retrain")


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
    name = supernet.data or config.data.name
    if scratch or name != config.data.name:  # otherwise images and split are those of the run of the weights
        values = data_options(replace(config.data, name=name))
        options = replace(options, **values, heldout=config.data.heldout if hold_out else 0)
    return replace(options, config_file=folder / RECIPE, teacher=config.teacher)


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


def data_options(data: DataConfig) -> dict[str, Any]:
    """Return the options that name the images of a training."""
    return {
        "data": data.name,
        "root": data.root,
        "download": data.download,
        "data_seed": data.seed,
        "max_images": data.max_images,
        "max_bad": data.max_bad,
        "cache": data.cache,
    }
