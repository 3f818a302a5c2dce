"""The record of a search that has ended, before its front is measured."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.files import relative_path
from hwnas.metrics import METRICS, QUANTISED, indistinct_supernet_warning
from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.execution import FinishedSearches
from hwnas.pipeline.search.references import reference_networks, reference_qualities
from hwnas.predict.card import card_json
from hwnas.search.record import SearchRecord, SupernetHealth
from hwnas.search.run import SearchOutcome
from hwnas.space import SPACES
from hwnas.space.space import Candidate

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import SupernetAccuracy


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
        # Of mAP and mIoU the errors are unknown.
        if METRICS.get(str(context.problem.expensive)).is_share and space.config.task == "classification":
            health = SupernetHealth(smallest=smallest, largest=largest)
            command = _longer_training(context.spec.supernet.path)
            warning = indistinct_supernet_warning(smallest, largest, num_images=num_images, command=command)
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
        reference_networks=reference_networks(
            context, qualities=reference_qualities(context, supernet_accuracy, runs=runs)
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


def _longer_training(supernet: Path) -> str | None:
    """Return the command that trains a supernet for longer; None for a file of weights."""
    from hwnas.train.options import longer_training, open_train_config

    config = open_train_config(supernet)
    return None if config is None else longer_training(relative_path(supernet), config)


def _unmeasured_notes(context: SearchContext) -> Iterator[str]:
    """Say which metrics are predicted from measurements of other devices."""
    for item in context.cheap.predictors:
        card = item.predictor.card
        if card.is_unmeasured or card.is_interpolated:
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
    values = supernet_accuracy.evaluate_archs(list(networks.values()), "fp32") if networks else []
    return dict(zip(networks, values, strict=True))


def _outside_notes(context: SearchContext, outcome: SearchOutcome) -> Iterator[str]:
    """Say how many networks are unlike all that a predictor was fitted to."""
    genomes = outcome.candidates.genomes
    if not len(genomes):
        return
    spec = context.spec
    is_own_size = spec.image_size == SPACES.get(spec.space).config.image_size
    measured = f"; hwnas profile --space {spec.space} --image-size {spec.image_size} measures such images"
    for name, mask in context.cheap.outside(genomes).items():
        on_front = int(np.count_nonzero(mask[outcome.rows]))
        if mask.any():
            yield (
                f"{name}: {int(mask.sum())} of {len(mask)} candidates, {on_front} of {len(outcome.rows)} on the front, "
                f"lie outside what the predictor was fitted to{'' if is_own_size or not mask.all() else measured}"
            )
