"""DeiT-Ti and DeiT-S to compare a front with: costs, predictions, and accuracies of their own trainings."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from hwnas.errors import HwnasError
from hwnas.pipeline.search.predicted_metrics import MetricPredictor
from hwnas.profile.subjects import REFERENCE_NETWORKS
from hwnas.runs import MANIFEST, Run
from hwnas.search.record import ReferenceNetwork
from hwnas.workload import Workload

NAMES: Mapping[str, str] = {"timm:deit_tiny_patch16_224": "DeiT-Ti", "timm:deit_small_patch16_224": "DeiT-S"}
"""Names of the reference networks by the id of the network."""


def predict_reference_networks(
    predictors: tuple[MetricPredictor, ...], *, confidence: float, accuracies: Mapping[str, float]
) -> tuple[ReferenceNetwork, ...]:
    """Predict the metrics of the reference networks.

    Args:
        predictors: The predictors of the search; metrics outside a predictor's range are left out.
        confidence: The confidence of intervals.
        accuracies: Known accuracies by the id of the network.
    """
    found = []
    for subject in REFERENCE_NETWORKS:
        workload = _workload(subject.name)
        metrics = {}
        for item in predictors:
            prediction = item.predict([workload], confidence=confidence)
            if not prediction.outside[0]:
                metrics[str(item.metric)] = float(prediction.mean[0])
        found.append(
            ReferenceNetwork(
                name=NAMES[subject.network_id],
                macs=workload.macs,
                params=workload.params,
                metrics=metrics,
                measured=False,
                accuracy=accuracies.get(subject.network_id),
            )
        )
    return tuple(found)


@cache
def _workload(name: str) -> Workload:
    from hwnas.export.timm_models import build_timm

    return build_timm(name).workload()


def known_accuracies(runs: Path, *, data: Mapping[str, object], num_images: int) -> dict[str, float]:
    """Return held-out accuracies of reference networks that were trained on the same images.

    Args:
        runs: A folder of runs, of which those of `hwnas train --model timm:NAME` are used.
        data: Name and seed of the data set, which decide the held-out images.
        num_images: The number of held-out images.

    Returns:
        The best accuracy of each network, by the id of the network.
    """
    from hwnas.pipeline.evaluate import evaluate

    found: dict[str, float] = {}
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        name = _trained_reference_network(folder, data)
        if name is not None:
            try:
                (row,) = evaluate(folder).networks
            except HwnasError:  # its images may be gone, for example
                continue
            if row.count == num_images:
                found[name] = max(row.top1, found.get(name, 0.0))
    return found


def _trained_reference_network(folder: Path, data: Mapping[str, object]) -> str | None:
    """Return the id of the reference network that a run trained on these images; None if it did not."""
    from hwnas.train.weights import MODEL

    try:
        if not (folder / MANIFEST).is_file() or not (folder / MODEL).is_file():
            return None
        config = Run.open(folder).manifest.config
    except (HwnasError, OSError):  # a broken run, or a folder of another user
        return None
    trained = config.get("data")
    same = isinstance(trained, Mapping) and all(trained.get(name) == data.get(name) for name in ("name", "seed"))
    return str(config["model"]) if same and config.get("model") in NAMES else None
