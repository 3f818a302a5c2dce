"""The images of a network in int8 or to be repaired: training images to calibrate with, held-out ones for accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from hwnas.config import Between, Seed, require_valid
from hwnas.errors import UsageError
from hwnas.export.calibration import (
    Array,
    Calibration,
    CalibrationMethod,
    CalibrationRecipe,
    LabeledImages,
    Labels,
    rebatched,
)

if TYPE_CHECKING:
    from hwnas.export.export import AccuracyCheck
    from hwnas.space.space import SpaceConfig
    from hwnas.train.data.images import ImageDataset
    from hwnas.train.data.sources import DataSplits

MAX_HELDOUT = 2048
"""Held-out images that accuracy is measured on; more are left out. A difference of one point is two standard errors
or more if the two graphs disagree about one image in twenty."""

_LOADED = 64
"""Images that are loaded at once."""


@dataclass(frozen=True, kw_only=True)
class QuantisationOptions:
    """Options of quantisation to int8, with the largest loss of accuracy; a repair uses its images."""

    data: str | None = None
    """Dataset whose training images calibrate and whose held-out images check accuracy; None: that of the run."""
    run: Path | None = None
    """Run of a training or a search whose dataset is used; None: the run that the network is from."""
    num_images: Annotated[int, Between(1, 1_000_000)] = 256
    """Training images that the scales of activations are from."""
    seed: Seed = 0
    """Decides which images."""
    method: CalibrationMethod = "minmax"
    """The rule for scales: 'minmax', 'percentile' or 'mse'."""
    max_drop: Annotated[float, Between(0, 1)] = 0.01
    """Largest loss of top-1 accuracy against float32, as a share of the held-out images."""

    def __post_init__(self) -> None:
        require_valid(self)

    @property
    def images_only(self) -> "QuantisationOptions":
        """The same images with the defaults of all that concerns quantisation alone."""
        return QuantisationOptions(data=self.data, run=self.run, num_images=self.num_images, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class QuantisationImages:
    """The opened images of a network in int8."""

    calibration: Calibration
    accuracy: "AccuracyCheck"
    num_classes: int
    """Classes of the dataset; 0: it has none."""


def open_quantisation_images(
    options: QuantisationOptions,
    *,
    run: Path | None,
    config: "SpaceConfig",
    batch: int | None,
    image_size: int | None = None,
    labelled: bool = True,
) -> QuantisationImages:
    """Open the images to calibrate with and to measure accuracy on.

    Args:
        options: The dataset and the calibration.
        run: Run of a training or a search whose dataset is used if the options name none.
        config: Image size and classes of the network's space.
        batch: Batch size that the graph accepts; None for any.
        image_size: Side that images are resized to for the network; None: that of the space.
        labelled: Require the classes of the network; else images with others, or without any, are taken too.

    Raises:
        InputError: The dataset cannot be opened, or does not fit the network.
        UsageError: Neither the options nor the run name a dataset.
    """
    from hwnas.export.export import AccuracyCheck
    from hwnas.train.data.images import subset
    from hwnas.train.data.sources import short_data_name

    data = _open(options, run=run, config=config, labelled=labelled)
    rng = np.random.default_rng(options.seed)
    chosen, heldout = (
        subset(part, np.sort(rng.permutation(len(part))[:number]))
        for part, number in ((data.train, options.num_images), (data.heldout, MAX_HELDOUT))
    )
    name = short_data_name(data.name)
    recipe = CalibrationRecipe(data=name, num_images=len(chosen), seed=options.seed, method=options.method)
    calibration = Calibration(recipe=recipe, batches=_Images(_Labeled(chosen, config.input_shape, image_size), batch))
    images = LabeledImages(name=name, batches=_Labeled(heldout, config.input_shape, image_size))
    check = AccuracyCheck(images=images, max_drop=options.max_drop)
    return QuantisationImages(calibration=calibration, accuracy=check, num_classes=len(data.classes))


@dataclass(frozen=True)
class _Labeled:
    """Images and labels of a dataset as networks are evaluated on them, which can be iterated over repeatedly."""

    dataset: "ImageDataset"
    image_shape: tuple[int, int, int]
    image_size: int | None
    """Side that they are resized to, as the networks of a supernet do; None: that of `image_shape`."""

    def __iter__(self) -> Iterator[tuple[Array, Labels]]:
        from hwnas.supernet.network import resized
        from hwnas.train.data.loader import EvalLoader

        for batch in EvalLoader(self.dataset, image_shape=self.image_shape, batch_size=_LOADED):
            yield resized(batch.images, self.image_size or self.image_shape[1]).numpy(), batch.labels.numpy()


@dataclass(frozen=True)
class _Images:
    """The images alone, in batches of the size that a graph accepts."""

    labeled: _Labeled
    batch: int | None

    def __iter__(self) -> Iterator[Array]:
        return (images for images, _ in rebatched(self.labeled, self.batch))


def _open(options: QuantisationOptions, *, run: Path | None, config: "SpaceConfig", labelled: bool) -> "DataSplits":
    from hwnas.runs import MANIFEST, Run
    from hwnas.search.record import RECORD_FILE, read_record
    from hwnas.train.options import read_train_config
    from hwnas.train.run_data import open_run_data

    run = options.run or run
    name, training = options.data, run
    if run is not None and (run / RECORD_FILE).is_file():
        supernet = read_record(run).spec.supernet
        training = None if supernet is None else supernet.path
        name = name if name is not None or supernet is None else supernet.data
    is_run = training is not None and (training / MANIFEST).is_file()
    if name is None and not is_run:
        message = "labelled images are needed, some to calibrate with and others to measure accuracy on"
        raise UsageError(message, got=f"{run}, which names none", hint="--data DIR")
    train_config = read_train_config(Run.open(training)) if is_run and training is not None else None
    return open_run_data(
        training or Path(),
        train_config,
        data=name,
        shape=config.input_shape,
        num_classes=config.num_classes if labelled else None,
        labelled=labelled,
    )
