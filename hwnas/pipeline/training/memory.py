"""What to say when memory runs out: which batch would fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from hwnas.errors import InputError
from hwnas.pipeline.training.options import TrainConfig
from hwnas.train.recipe import Recipe

_CPU_ALLOCATOR = "can't allocate memory"


@contextmanager
def told_when_full(config: TrainConfig) -> Iterator[None]:
    """Within it, memory that runs out is an error that says how to need less."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _full(config, error) from error
    except RuntimeError as error:
        if _CPU_ALLOCATOR not in str(error):
            raise
        raise _full(config, error) from error


def _full(config: TrainConfig, error: BaseException) -> InputError:
    recipe = config.recipe
    got = str(error).splitlines()[0] if str(error) else type(error).__name__
    message = f"{recipe.batch_size // recipe.accumulate} pictures at once must fit into memory"
    return InputError(message, got=got, hint=_smaller(recipe))


def _smaller(recipe: Recipe) -> str | None:
    """The setting with the next smaller part of a step that can be had."""
    for parts in range(recipe.accumulate + 1, recipe.batch_size + 1):
        try:
            at_once = replace(recipe, accumulate=parts).part_size(1)
        except InputError:
            continue
        return f"--set accumulate={parts}: {recipe.batch_size} pictures a step as before, {at_once} at once"
    return None
