"""Find predictors on the search path: PATH/DEVICE/SPACE-RUNTIME-PRECISION-BATCH-THREADS/METRIC.

The space is `any` if a predictor was fitted to all networks that were measured in a deployment.
"""

from dataclasses import dataclass
from pathlib import Path

from hwnas.data_paths import DataPaths, Origin, find_data_folders
from hwnas.metrics import Metric
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


def predictor_folder(metric: Metric, *, space: str | None = None) -> Path:
    """Return the folder of a predictor below one of predictors; the metric must name its device."""
    deployment = metric.deployment
    assert deployment.device is not None
    return Path(deployment.device) / f"{space or ANY}-{deployment.slug}" / metric.name


def predictor_entries(paths: DataPaths, *, device: str | None = None) -> tuple[PredictorEntry, ...]:
    """Return the predictors on a search path, of one device or of all.

    Raises:
        InputError: A card cannot be read. It is never silently skipped for another predictor.
    """
    return tuple(
        PredictorEntry(path=folder.path, origin=folder.origin, card=load_card(folder.path))
        for folder in find_data_folders(paths, f"{device or '*'}/*/*/{CARD}")
    )


def predictor_devices(paths: DataPaths) -> tuple[str, ...]:
    """Return the names of the devices that have predictors, without reading them."""
    return tuple(sorted({folder.name.split("/")[0] for folder in find_data_folders(paths, f"*/*/*/{CARD}")}))
