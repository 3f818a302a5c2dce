"""The recipe of a training: a preset, then a file, then single values."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.space.space import Space
from hwnas.train.presets import RECIPES, default_recipe, for_network
from hwnas.train.recipe import Recipe, overridden, with_file

_RETRAIN = "-retrain"
_REFERENCE = "autoformer"
"""The recipe of a model that belongs to no space: DeiT's."""


def chosen_recipe(
    *,
    space: Space[Any, Any] | None,
    one_network: bool,
    name: str | None = None,
    file: Path | None = None,
    changes: Mapping[str, str] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """The preset of that name, or else of the space, with what a file and single values change.

    Where the number of epochs is changed, warm-up and widening keep their shares of it, unless they are given too.
    """
    recipe = _preset(space, name, one_network=one_network)
    if file is not None:
        recipe = with_file(recipe, file)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    recipe = overridden(recipe, changes or {})
    return for_network(recipe, patches=recipe.regularisation.patch_loss) if one_network else recipe


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over so many epochs; warm-up and widening keep their shares."""
    share = epochs / recipe.epochs
    warmup, widening = recipe.schedule.warmup_epochs, recipe.sampling.widening_epochs
    return replace(
        recipe,
        epochs=epochs,
        schedule=replace(recipe.schedule, warmup_epochs=min(_part(warmup, share), epochs - 1)),
        sampling=replace(recipe.sampling, widening_epochs=_part(widening, share)),
    )


def _part(length: int, share: float) -> int:
    return max(1, round(length * share)) if length else 0


def _preset(space: Space[Any, Any] | None, name: str | None, *, one_network: bool) -> Recipe:
    if name is None:
        name = _REFERENCE if space is None else default_recipe(space)
        if one_network and name + _RETRAIN in RECIPES:
            name += _RETRAIN
    return RECIPES.get(name)
