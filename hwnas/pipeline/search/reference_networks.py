"""DeiT-Ti and DeiT-S beside a front: what they cost, what predictors say of them, and their accuracy where known."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from hwnas.errors import HwnasError
from hwnas.pipeline.search.predicted_metrics import MetricPredictor
from hwnas.profile.subjects import REFERENCE_NETWORKS
from hwnas.records import Subject
from hwnas.runs import MANIFEST, Run
from hwnas.search.record import ReferenceNetwork
from hwnas.workload import Workload

NAMES: Mapping[str, str] = {"timm:deit_tiny_patch16_224": "DeiT-Ti", "timm:deit_small_patch16_224": "DeiT-S"}
"""What the landmarks are called, by the id of their network."""


def predict_reference_networks(
    predictors: tuple[MetricPredictor, ...], *, confidence: float, accuracies: Mapping[str, float]
) -> tuple[ReferenceNetwork, ...]:
    """The landmarks with predicted metrics; what lies outside a predictor's range is left out."""
    return tuple(_reference_network(subject, predictors, confidence, accuracies) for subject in REFERENCE_NETWORKS)


def _reference_network(
    subject: Subject, predictors: tuple[MetricPredictor, ...], confidence: float, accuracies: Mapping[str, float]
) -> ReferenceNetwork:
    workload = _workload(subject.name)
    metrics = {}
    for item in predictors:
        found = item.of_network(workload, confidence=confidence)
        if not found.outside[0]:
            metrics[str(item.metric)] = float(found.mean[0])
    return ReferenceNetwork(
        name=NAMES[subject.network_id],
        macs=workload.macs,
        params=workload.params,
        metrics=metrics,
        measured=False,
        accuracy=accuracies.get(subject.network_id),
    )


@cache
def _workload(name: str) -> Workload:
    """The operations of a model of timm."""
    from hwnas.export.timm_models import build_timm

    return build_timm(name).workload()


def known_accuracies(runs: Path, *, data: Mapping[str, object], num_images: int) -> dict[str, float]:
    """Held-out accuracies of landmarks that were trained on the same pictures, by the id of the network.

    They are those of runs of `hwnas train --model timm:NAME` whose pictures are held out in the same way.
    """
    found: dict[str, float] = {}
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        name = _trained_reference_network(folder, data)
        if name is not None:
            accuracy = _top1(folder, num_images)
            if accuracy is not None:
                found[name] = max(accuracy, found.get(name, 0.0))
    return found


def _trained_reference_network(folder: Path, data: Mapping[str, object]) -> str | None:
    """The landmark that a run trained on those pictures, if it did."""
    from hwnas.train.weights import MODEL

    try:
        if not (folder / MANIFEST).is_file() or not (folder / MODEL).is_file():
            return None
        config = Run.open(folder).manifest.config
    except (HwnasError, OSError):  # a run that cannot be read, or a folder that is another user's, is no landmark
        return None
    theirs = config.get("data")
    same = isinstance(theirs, Mapping) and all(theirs.get(name) == data.get(name) for name in ("name", "seed"))
    return str(config["model"]) if same and config.get("model") in NAMES else None


def _top1(folder: Path, num_images: int) -> float | None:
    from hwnas.pipeline.evaluate import evaluate

    try:
        (row,) = evaluate(folder).networks
    except HwnasError:  # its pictures are not here any more, say
        return None
    return row.top1 if row.count == num_images else None
