"""Where predictors are: PLACE/DEVICE/SPACE-RUNTIME-PRECISION-BATCH-THREADS/METRIC.

The places, in order: `--predictors` (or `HWNAS_PREDICTORS`) in place of all others; else `./predictors`, the data in
the installed package, and `predictors` at the root of a checkout. `any` stands for a space where a predictor was
fitted to all networks that were measured in a setting.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwnas.data_paths import DataPaths, Origin, data_search_path
from hwnas.metrics import Metric
from hwnas.predict.card import CARD, Card, load_card

FOLDER = "predictors"
"""Where predictors are written, under the working folder."""

VARIABLE = "HWNAS_PREDICTORS"
"""Another place, where it is set; several are parted as in PATH."""

ANY = "any"


@dataclass(frozen=True, kw_only=True)
class PredictorEntry:
    """A predictor that was found, by its card alone."""

    path: Path
    origin: Origin
    card: Card

    @property
    def name(self) -> str:
        """DEVICE/SETTING/METRIC."""
        return "/".join(self.path.parts[-3:])


def predictor_folder(metric: Metric, *, space: str | None = None) -> Path:
    """The folder of a predictor below one of predictors; the metric must name its device."""
    deployment = metric.deployment
    assert deployment.device is not None
    return Path(deployment.device) / f"{space or ANY}-{deployment.slug}" / metric.name


def search_path(
    given: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    working: Path | None = None,
    package: Path | None = None,
) -> DataPaths:
    """The places where predictors are looked for, in order."""
    return data_search_path(FOLDER, given, variable=VARIABLE, environ=environ, working=working, package=package)


def entries(places: DataPaths, *, device: str | None = None) -> tuple[PredictorEntry, ...]:
    """The predictors in those places, of one device or of all; of two with one name the first.

    A card that cannot be read is an error: it is never passed over for another predictor.
    """
    found: dict[str, PredictorEntry] = {}
    for place, origin in places:
        for path in sorted(place.glob(f"{device or '*'}/*/*/{CARD}")):
            folder = path.parent
            if not folder.name.startswith("."):  # what a killed process left half written
                entry = PredictorEntry(path=folder, origin=origin, card=load_card(folder))
                found.setdefault(entry.name, entry)
    return tuple(found.values())


def devices(places: DataPaths) -> tuple[str, ...]:
    """The names of the devices that have predictors there, by the folders alone."""
    return tuple(sorted({path.parents[2].name for place, _ in places for path in place.glob(f"*/*/*/{CARD}")}))
