"""The record of a search that has ended."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.metrics import indistinct_supernet_warning
from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.execution import FinishedSearches
from hwnas.pipeline.search.reference_networks import known_accuracies, predict_reference_networks
from hwnas.predict.card import card_json
from hwnas.search.record import SearchRecord, SupernetHealth
from hwnas.search.run import SearchOutcome
from hwnas.search.spec import SupernetSpec

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import OpenSupernet, TrueAccuracy


def make_record(
    context: SearchContext,
    finished: FinishedSearches,
    *,
    satisfiable: str,
    true_accuracy: "TrueAccuracy | None",
    runs: Path,
) -> SearchRecord:
    """Make the record of a search, before anything is verified or exported.

    Args:
        context: The inputs of the search.
        finished: Its results.
        satisfiable: Whether the constraints can be met, as a sentence.
        true_accuracy: The evaluator of accuracy; None for a search without accuracy.
        runs: A folder of runs; trainings of reference networks in it have accuracies to compare with.
    """
    outcome = finished.outcome
    health = None
    if true_accuracy is not None:
        space = context.space
        smallest, largest = true_accuracy.evaluate(space.encode([space.smallest(), space.largest()]))
        health = SupernetHealth(smallest=smallest, largest=largest)
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
        front=tuple(network.arch_id for network in context.space.candidates(outcome.candidates.genomes[outcome.rows])),
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
            *_outside_notes(context, outcome),
            *_health_notes(health, context.spec.supernet),
        ),
    )


def _health_notes(health: SupernetHealth | None, supernet: SupernetSpec | None) -> Iterator[str]:
    if health is not None and supernet is not None:
        warning = indistinct_supernet_warning(health.smallest, health.largest, num_images=supernet.num_images)
        if warning is not None:
            yield warning


def _reference_accuracies(supernet: "OpenSupernet", runs: Path) -> dict[str, float]:
    from hwnas.runs import Run
    from hwnas.train.options import read_train_config

    config = read_train_config(Run.open(supernet.path)) if supernet.path.is_dir() else None
    data = {"name": supernet.data.name, "seed": 0 if config is None else config.data.seed}
    return known_accuracies(runs, data=data, num_images=len(supernet.data.heldout))


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
