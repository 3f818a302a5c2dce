"""The record of a search that has ended, and the reference networks that its front is compared with."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import HwnasError
from hwnas.metrics import QUANTISED, Deployment, indistinct_supernet_warning
from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.execution import FinishedSearches
from hwnas.pipeline.search.predicted_metrics import MetricPredictor
from hwnas.predict.card import card_json
from hwnas.profile.subjects import REFERENCE_NETWORKS
from hwnas.runs import MANIFEST, Run
from hwnas.search.record import ReferenceNetwork, SearchRecord, SupernetHealth
from hwnas.search.run import SearchOutcome
from hwnas.space.space import Candidate
from hwnas.workload import Workload

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import OpenSupernet, SupernetAccuracy


NAMES: Mapping[str, str] = {"timm:deit_tiny_patch16_224": "DeiT-Ti", "timm:deit_small_patch16_224": "DeiT-S"}
"""Names of the reference networks by the id of the network."""


def make_record(
    context: SearchContext,
    finished: FinishedSearches,
    *,
    satisfiable: str,
    supernet_accuracy: "SupernetAccuracy | None",
    runs: Path,
) -> SearchRecord:
    """Make the record of a search, before anything is verified or exported.

    Args:
        context: The inputs of the search.
        finished: Its results.
        satisfiable: Whether the constraints can be met, as a sentence.
        supernet_accuracy: The evaluator of accuracy; None for a search without accuracy.
        runs: A folder of runs; trainings of reference networks in it have accuracies to compare with.
    """
    outcome = finished.outcome
    health, warning = None, None
    if supernet_accuracy is not None and context.spec.supernet is not None:
        space, num_images = context.space, context.spec.supernet.num_images
        smallest, largest = supernet_accuracy.evaluate(space.encode([space.smallest(), space.largest()]))
        health = SupernetHealth(smallest=smallest, largest=largest)
        warning = indistinct_supernet_warning(smallest, largest, num_images=num_images)
    front = context.space.candidates(outcome.candidates.genomes[outcome.rows])
    return SearchRecord(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=context.spec,
        stop=outcome.stop,
        evaluations=outcome.evaluations,
        candidates=len(outcome.candidates.genomes),
        satisfiable=satisfiable,
        elapsed_s=finished.elapsed_s,
        bounds=outcome.bounds,
        history=finished.history,
        random_history=finished.random_history,
        supernet_health=health,
        predictor_cards={str(item.metric): card_json(item.predictor.card) for item in context.cheap.predictors},
        front=tuple(candidate.id for candidate in front),
        measured_front=None,
        reference_networks=predict_reference_networks(
            context.cheap.predictors,
            confidence=context.cheap.confidence,
            accuracies={} if context.supernet is None else _reference_accuracies(context.supernet, runs),
        ),
        verification=None,
        winners=(),
        seeds=finished.seeds,
        notes=(
            *(() if context.supernet is None else context.supernet.data.notes),
            *_unmeasured_notes(context),
            *_outside_notes(context, outcome),
            *([] if warning is None else [warning]),
        ),
        float_accuracies=_float_accuracies(context, front, supernet_accuracy),
    )


def _unmeasured_notes(context: SearchContext) -> Iterator[str]:
    """Say which metrics are predicted from measurements of other devices."""
    for item in context.cheap.predictors:
        card = item.predictor.card
        if card.is_unmeasured:
            yield f"{item.metric}: {card.notes[0]}"


def _float_accuracies(
    context: SearchContext, front: Sequence[Candidate], supernet_accuracy: "SupernetAccuracy | None"
) -> dict[str, float]:
    """Evaluate the networks of a front in float32 whose precision changes accuracy."""
    if supernet_accuracy is None or context.spec.supernet is None:
        return {}
    common = context.spec.supernet.precision
    networks = {
        item.network_id: item.arch
        for item in front
        if (common if item.deployment is None else item.deployment.precision) in QUANTISED
    }
    values = supernet_accuracy.evaluate_in_float(list(networks.values())) if networks else []
    return dict(zip(networks, values, strict=True))


def _outside_notes(context: SearchContext, outcome: SearchOutcome) -> Iterator[str]:
    """Say how many networks are unlike all that a predictor was fitted to."""
    genomes = outcome.candidates.genomes
    if not len(genomes):
        return
    for name, mask in context.cheap.outside(genomes).items():
        on_front = int(np.count_nonzero(mask[outcome.rows]))
        if mask.any():
            yield (
                f"{name}: {int(mask.sum())} of {len(mask)} candidates, {on_front} of {len(outcome.rows)} on the front, "
                "lie outside what the predictor was fitted to"
            )


def predict_reference_networks(
    predictors: tuple[MetricPredictor, ...], *, confidence: float, accuracies: Mapping[str, float]
) -> tuple[ReferenceNetwork, ...]:
    """Predict the metrics of the reference networks, in each of the deployments that are searched.

    Args:
        predictors: The predictors of the search; metrics outside a predictor's range are left out.
        confidence: The confidence of intervals.
        accuracies: Known accuracies by the id of the network.
    """
    found = []
    deployments = dict.fromkeys(item.deployment for item in predictors) or {None: None}
    for subject, deployment in itertools.product(REFERENCE_NETWORKS, deployments):
        workload = _workload(subject.name)
        metrics = {}
        for item in predictors:
            if item.deployment == deployment:
                prediction = item.predict([workload], confidence=confidence)
                if not prediction.outside[0]:
                    metrics[str(item.column)] = float(prediction.mean[0])
        changed = deployment is not None and deployment.precision in QUANTISED
        found.append(
            ReferenceNetwork(
                name=reference_name(subject.network_id, deployment),
                macs=workload.macs,
                params=workload.params,
                metrics=metrics,
                measured=False,
                accuracy=None if changed else accuracies.get(subject.network_id),
                deployment=None if deployment is None else str(deployment),
            )
        )
    return tuple(found)


def reference_name(network_id: str, deployment: Deployment | None) -> str:
    """Return the name of a reference network, in a deployment where a search has several."""
    return NAMES[network_id] if deployment is None else f"{NAMES[network_id]} {deployment}"


def _reference_accuracies(supernet: "OpenSupernet", runs: Path) -> dict[str, float]:
    from hwnas.train.options import read_train_config

    config = read_train_config(Run.open(supernet.path)) if supernet.path.is_dir() else None
    data = {"name": supernet.data.name, "seed": 0 if config is None else config.data.seed}
    return known_accuracies(runs, data=data, num_images=len(supernet.data.heldout))


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


@cache
def _workload(name: str) -> Workload:
    from hwnas.export.timm_models import build_timm

    return build_timm(name).workload()
