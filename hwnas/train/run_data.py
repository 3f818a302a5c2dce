"""The images of a run, opened again to evaluate networks on them."""

import hashlib
from dataclasses import replace
from pathlib import Path

from hwnas.errors import HwnasError, InputError, UnknownNameError
from hwnas.files import printable
from hwnas.metrics import TASK_QUALITIES
from hwnas.runs import MANIFEST
from hwnas.space.space import SpaceConfig
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.data.images import HELDOUT_LIST, read_image_list, renumbered, require_same_images
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
    whole: bool = False,
) -> DataSplits:
    """Open the dataset of a run, or another one, whose classes get the numbers that they have in the run.

    Args:
        run: Run of a training, or a file of weights.
        config: Config of the run; None for a file of weights.
        data: Name of another dataset; required for a file of weights.
        shape: Channels, height and width of the network's input.
        num_classes: Classes of the network; None: any number.
        labelled: As for `open_data`.
        whole: Take all images of another dataset, which a run was not trained on, as held-out and as test images, if it
            does not say which are for training. Statistics are then estimated on training images of the run.

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
    if not is_own and num_classes is not None:
        opened = _with_classes_of(run, opened)
    if whole and config is not None and not is_own and not _is_moved(run, opened):
        return _whole_of(run, opened, config, shape=shape, num_classes=num_classes, labelled=labelled)
    return opened


def _with_classes_of(run: Path, opened: DataSplits) -> DataSplits:
    """Return a dataset with the numbers that a run has for classes of these names, or with a note if names differ."""
    record = read_preprocess(run if run.is_dir() else run.parent)
    names = () if record is None else record.label_names
    if names in ((), opened.classes):
        return opened
    if sorted(set(names)) != sorted(opened.classes):
        number = next(row for row, pair in enumerate(zip(names, opened.classes, strict=True)) if len(set(pair)) > 1)
        other, trained = printable(opened.classes[number]), printable(names[number])
        note = f"classes of {opened.name} have other names than those of the training: {other} counts as {trained}"
        return replace(opened, notes=(note, *opened.notes))
    numbers = [names.index(name) for name in opened.classes]
    return replace(
        opened,
        classes=names,
        train=renumbered(opened.train, numbers),
        heldout=renumbered(opened.heldout, numbers),
        test=None if opened.test is None else renumbered(opened.test, numbers),
        whole=None if opened.whole is None else renumbered(opened.whole, numbers),
        fingerprint=hashlib.sha256(f"{opened.fingerprint} {numbers}".encode()).hexdigest()[:24],
    )


def _is_moved(run: Path, opened: DataSplits) -> bool:
    """Return True if a dataset is that of a run, which was trained on it in another place."""
    heldout = _heldout_of(run)
    return len(heldout) > 0 and heldout == tuple(opened.heldout.keys)


def _heldout_of(run: Path) -> tuple[str, ...]:
    """Return the names of the images that a run held out; none if it held out none, or is a file of weights."""
    return read_image_list(run / HELDOUT_LIST) if (run / HELDOUT_LIST).exists() else ()


def _whole_of(
    run: Path,
    opened: DataSplits,
    config: TrainConfig,
    *,
    shape: tuple[int, int, int],
    num_classes: int | None,
    labelled: bool,
) -> DataSplits:
    """Return a dataset with all its images as held-out and as test images, unless it says which are for training."""
    if opened.whole is None:
        return opened
    train, identity = opened.train, opened.fingerprint
    note = f"all {len(opened.whole):,} images of {opened.name}, which has no training and test images of its own"
    try:
        own = open_data(config.data, image_shape=shape, num_classes=num_classes, labelled=labelled)
        train, identity = own.train, f"{identity} {own.fingerprint}"
    except HwnasError:
        note += "; batch norms of a supernet are estimated on them, as the images of the run are not there"
    same = len(set(_heldout_of(run)).intersection(opened.whole.keys))
    if same:
        note += f"; {same:,} have names of held-out images of the run: if they are its images, others were trained on"
    return replace(
        opened,
        train=train,
        heldout=opened.whole,
        test=opened.whole,
        fingerprint=hashlib.sha256(f"whole {identity}".encode()).hexdigest()[:24],
        notes=(*opened.notes[:-1], note),
    )


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
    path: Path,
    config: TrainConfig | None,
    supernet: AnySupernet,
    *,
    quality: str,
    data: str | None,
    hint: str,
    whole: bool = False,
) -> TrainData:
    """Open the images that a metric of the networks of a supernet is evaluated on.

    Args:
        path: Run of a training, or a file of weights.
        config: Config of the run; None for a file of weights.
        supernet: The supernet.
        quality: The metric.
        data: Name of another dataset; required for a file of weights.
        hint: What to do where the images have no classes, which the metric needs.
        whole: As for `open_run_data`; not of `knn_accuracy`, whose training images vote.

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
            whole=whole and quality != "knn_accuracy",
        )
    except UnlabelledError as error:
        if not isinstance(supernet, ElasticSupernet):
            raise
        raise InputError(f"{quality} needs images with classes: {error.message}", got=error.got, hint=hint) from error
