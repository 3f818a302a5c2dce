"""The images of a run, opened again to evaluate networks on them."""

from dataclasses import replace
from pathlib import Path

from hwnas.errors import InputError, UnknownNameError
from hwnas.metrics import TASK_QUALITIES
from hwnas.runs import MANIFEST
from hwnas.space.space import SpaceConfig
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.images import HELDOUT_LIST, require_same_images
from hwnas.train.data.preprocess import read_preprocess
from hwnas.train.data.samples import AnnotatedData
from hwnas.train.data.sources import DataConfig, DataSplits, UnlabelledError, absolute_data_name, open_data
from hwnas.train.options import TrainConfig
from hwnas.train.session import ORIGINAL, TrainData
from hwnas.train.tasks import QUALITY_OF_TASK, open_task_data


def open_run_data(
    run: Path,
    config: TrainConfig | None,
    *,
    data: str | None,
    shape: tuple[int, int, int],
    num_classes: int | None,
    labelled: bool = True,
) -> DataSplits:
    """Open the dataset of a run, or another one.

    Args:
        run: Run of a training, or a file of weights.
        config: Config of the run; None for a file of weights.
        data: Name of another dataset; required for a file of weights.
        shape: Channels, height and width of the network's input.
        num_classes: Classes of the network; None: any number.
        labelled: As for `open_data`.

    Raises:
        InputError: The dataset cannot be opened, or its held-out images are not those of the run.
    """
    data = None if data is None else absolute_data_name(data)
    is_own = config is not None and data in (None, config.data.name)
    if is_own:
        assert config is not None
        chosen = config.data
    else:
        assert data is not None
        chosen = DataConfig(name=data) if config is None else replace(config.data, name=data)
    try:
        opened = open_data(chosen, image_shape=shape, num_classes=num_classes, labelled=labelled)
    except UnknownNameError as error:
        if not is_own:
            raise
        message = f"{run / MANIFEST}: config.data.name: {error.message}"
        raise InputError(message, got=error.got, known=error.known, hint="--data NAME") from error
    if is_own and (run / HELDOUT_LIST).exists():
        require_same_images(run / HELDOUT_LIST, opened.heldout)
    return opened


def open_run_task_data(run: Path, config: TrainConfig | None, *, data: str | None, space: SpaceConfig) -> AnnotatedData:
    """Open the images of a run for detection or segmentation, or others; arguments as for `open_run_data`."""
    data = None if data is None else absolute_data_name(data)
    is_own = config is not None and data in (None, config.data.name)
    if config is None:
        chosen = DataConfig(name=data or "")
    else:
        chosen = config.data if data is None else replace(config.data, name=data)
    record = read_preprocess(run if run.is_dir() else run.parent)
    is_of_run = record is not None and record.crop_mode == "letterbox" and record.num_classes == space.num_classes
    opened = open_task_data(
        chosen,
        space.task,
        image_size=space.image_size,
        num_classes=space.num_classes,
        masks=space.task_head is not None and space.task_head.has_masks,
        classes=record.label_names[1:] if record is not None and is_of_run else (),
    )
    if is_own and (run / HELDOUT_LIST).exists():
        require_same_images(run / HELDOUT_LIST, opened.heldout)
    return opened


def open_quality_data(
    path: Path, config: TrainConfig | None, supernet: AnySupernet, *, quality: str, data: str | None, hint: str
) -> TrainData:
    """Open the images that a metric of the networks of a supernet is evaluated on.

    Args:
        path: Run of a training, or a file of weights.
        config: Config of the run; None for a file of weights.
        supernet: The supernet.
        quality: The metric.
        data: Name of another dataset; required for a file of weights.
        hint: What to do where the images have no classes, which the metric needs.

    Raises:
        InputError: The networks have no such metric, or the dataset cannot be opened or does not fit.
    """
    task = supernet.space.config.task
    if quality != QUALITY_OF_TASK[task] and (task != "classification" or quality in TASK_QUALITIES):
        message = f"networks for {task} are compared by {QUALITY_OF_TASK[task]}"
        raise InputError(message, got=quality, hint=f"leave it out, or {QUALITY_OF_TASK[task]}")
    if task != "classification":
        return open_run_task_data(path, config, data=data, space=supernet.space.config)
    if quality != "accuracy" and not isinstance(supernet, ElasticSupernet):
        message = f"{quality} is a metric of the networks inside a pretrained model"
        raise InputError(message, got=f"a supernet of {supernet.space.name}", hint="leave it out, for accuracy")
    if quality == "divergence" and not (path / ORIGINAL).is_file():
        message = "divergence is that from the model that the networks were cut from"
        raise InputError(message, got=f"no file {ORIGINAL} in {path}", hint="a run of hwnas train --elastic")
    try:
        return open_run_data(
            path,
            config,
            data=data,
            shape=supernet.space.config.input_shape,
            num_classes=supernet.space.config.num_classes if quality == "accuracy" else None,
            labelled=quality != "divergence",
        )
    except UnlabelledError as error:
        if not isinstance(supernet, ElasticSupernet):
            raise
        raise InputError(f"{quality} needs images with classes: {error.message}", got=error.got, hint=hint) from error
