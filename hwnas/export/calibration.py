"""The images that the scales of a graph in int8 are found on, and the recipe by which they were chosen."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hwnas.config import Between, Seed, require_valid

Array = NDArray[np.float32]
Labels = NDArray[np.int64]

CalibrationMethod = Literal["minmax", "percentile", "mse"]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)

RANDOM_IMAGES = "random"
"""Data of a calibration for timing alone: the speed of a network does not depend on its scales."""


@dataclass(frozen=True, kw_only=True)
class CalibrationRecipe:
    """The method that found the ranges of activations; it is part of the exported file."""

    data: str = RANDOM_IMAGES
    """Dataset, or 'random' for normally distributed images, which are enough to time a network."""
    num_images: Annotated[int, Between(1, 1_000_000)] = 1
    seed: Seed = 0
    """Decides which images are used."""
    method: CalibrationMethod = "minmax"
    """'minmax': the largest value; 'percentile': that of 99.99 % of the values; 'mse': the bound with the smallest mean
    squared error."""

    def __post_init__(self) -> None:
        require_valid(self)

    def __str__(self) -> str:
        return f"{self.num_images:,} images of {self.data}, seed {self.seed}, {self.method}"

    def to_json(self) -> str:
        """Return the recipe as it is stored in a graph."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The images that the ranges of activations are found on."""

    recipe: CalibrationRecipe
    batches: Iterable[Array]
    """The images, in batches that the graph accepts. They can be iterated over repeatedly."""


@dataclass(frozen=True, kw_only=True)
class LabeledImages:
    """Labelled images that took no part in a calibration."""

    name: str
    """The dataset."""
    batches: Iterable[tuple[Array, Labels]]
    """Normalised images of shape (batch, channels, height, width) and their classes."""


def random_calibration(input_shape: Sequence[int], *, batch: int) -> Calibration:
    """Return a calibration for timing alone, on one batch of random images.

    Args:
        input_shape: Shape of one image: channels, height, width.
        batch: Batch size that the graph accepts.
    """
    recipe = CalibrationRecipe(num_images=batch)
    images = np.random.default_rng(recipe.seed).standard_normal((batch, *input_shape), dtype=np.float32)
    return Calibration(recipe=recipe, batches=[images])


def rebatched(batches: Iterable[tuple[Array, Labels]], size: int | None) -> Iterator[tuple[Array, Labels]]:
    """Yield batches of the size that a graph accepts, filled up with repeated images where there are fewer labels.

    Args:
        batches: Images and labels, in batches of any size.
        size: The size; None for any.
    """
    for images, labels in batches:
        for start in range(0, len(labels), size or len(labels)):
            part = images[start : start + (size or len(labels))]
            is_short = size is not None and len(part) < size
            filled = np.resize(part, (size, *part.shape[1:])) if is_short else part
            yield filled, labels[start : start + len(part)]
