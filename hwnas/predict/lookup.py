"""Find predictors on the search path: PATH/DEVICE/SPACE-RUNTIME-PRECISION-BATCH-THREADS/METRIC.

The space is `any` if a predictor was fitted to all networks that were measured in a deployment.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from hwnas.data_paths import DataPaths, Origin, find_data_folders
from hwnas.errors import InputError
from hwnas.files import printable
from hwnas.metrics import PRECISIONS, RUNTIMES, UNSPECIFIED, Deployment, Metric
from hwnas.predict.card import CARD, Card, load_card

ANY = "any"


@dataclass(frozen=True, kw_only=True)
class PredictorEntry:
    """A predictor on the search path, with its card alone."""

    path: Path
    origin: Origin
    card: Card

    @property
    def name(self) -> str:
        """DEVICE/SETTING/METRIC."""
        return "/".join(self.path.parts[-3:])

    @property
    def space(self) -> str | None:
        """Space of the fitted networks; None: any."""
        return self.card.space

    @property
    def deployment(self) -> Deployment:
        """Deployment that its networks were measured in."""
        return self.card.metric.deployment


@dataclass(frozen=True, kw_only=True)
class UnreadablePredictor:
    """A predictor whose card cannot be read, with what the name of its folder says about it."""

    path: Path
    error: InputError
    space: str | None
    deployment: Deployment
    """`UNSPECIFIED` if the name says nothing."""


def predictor_folder(metric: Metric, *, space: str | None = None) -> Path:
    """Return the folder of a predictor below one of predictors; the metric must name its device."""
    deployment = metric.deployment
    assert deployment.device is not None
    return Path(deployment.device) / f"{space or ANY}-{deployment.slug}" / metric.name


def predictor_entries(paths: DataPaths, *, device: str | None = None) -> tuple[PredictorEntry, ...]:
    """Return the predictors on a search path, of one device or of all.

    Raises:
        InputError: A card cannot be read.
    """
    entries, unreadable = find_predictors(paths, device=device)
    for predictor in unreadable:
        raise predictor.error
    return entries


def find_predictors(
    paths: DataPaths, *, device: str | None = None, metric: str | None = None
) -> tuple[tuple[PredictorEntry, ...], tuple[UnreadablePredictor, ...]]:
    """Return the predictors on a search path, and those whose card cannot be read.

    Args:
        paths: The search path.
        device: Name of their device; None: of all devices.
        metric: Name of their metric; None: of all metrics.
    """
    entries: list[PredictorEntry] = []
    unreadable: list[UnreadablePredictor] = []
    for folder in find_data_folders(paths, f"{device or '*'}/*/{metric or '*'}/{CARD}"):
        try:
            card = load_card(folder.path)
            _require_own_name(card, folder.path)
            entries.append(PredictorEntry(path=folder.path, origin=folder.origin, card=card))
        except InputError as error:
            space, deployment = _parse_name(folder.name)
            predictor = UnreadablePredictor(path=folder.path, error=error, space=space, deployment=deployment)
            unreadable.append(predictor)
    return tuple(entries), tuple(unreadable)


def predictor_devices(paths: DataPaths) -> tuple[str, ...]:
    """Return the names of the devices that have predictors, without reading them."""
    return tuple(sorted({folder.name.split("/")[0] for folder in find_data_folders(paths, f"*/*/*/{CARD}")}))


def _require_own_name(card: Card, path: Path) -> None:
    """Require that a card is of the device and the metric that its folders are named after."""
    metric = card.metric
    if (metric.deployment.device, metric.name) != (path.parts[-3], path.name):
        message = f"{printable(path / CARD)} must be of the device and the metric that its folders are named after"
        raise InputError(message, got=str(metric), hint="restore the names of the folders, or fit again")


def _parse_name(name: str) -> tuple[str | None, Deployment]:
    """Return the space and the deployment in the name of a predictor, DEVICE/SPACE-SETTING/METRIC."""
    device, setting, _ = name.split("/")
    runtimes, precisions = ("|".join(map(re.escape, names)) for names in (RUNTIMES.names(), PRECISIONS))
    pattern = rf"(.+)-({runtimes})-({precisions})-b([1-9]\d{{0,4}}|any)(?:-t([1-9]\d{{0,2}}))?"
    match = re.fullmatch(pattern, setting)
    if match is None:
        return None, UNSPECIFIED
    space, runtime, precision, batch, threads = match.groups()
    try:
        deployment = Deployment(
            device=device,
            runtime=runtime,
            precision=precision,
            batch="any" if batch == "any" else int(batch),
            threads=int(threads) if threads else None,
        )
    except InputError:  # a folder of another program
        return None, UNSPECIFIED
    return None if space == ANY else space, deployment
