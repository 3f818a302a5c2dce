"""The record of a search that has ended."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.metrics import indistinct_supernet_warning
from hwnas.pipeline.search.context import Bench
from hwnas.pipeline.search.execution import Ended
from hwnas.pipeline.search.reference_networks import known_accuracies, landmarks
from hwnas.predict.card import card_json
from hwnas.search.record import SearchRecord, SpentBudget, SupernetHealth, UsedPredictor
from hwnas.search.run import Outcome

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import OpenSupernet, TrueAccuracy


def make_record(
    bench: Bench, ended: Ended, *, satisfiable: str, truth: "TrueAccuracy | None", runs: Path
) -> SearchRecord:
    """The record, before anything is verified."""
    search, outcome, supernet = bench.search, ended.outcome, bench.supernet
    genomes = outcome.candidates.genomes[outcome.rows]
    return SearchRecord(
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        space=search.space,
        space_config={"image_size": search.image_size, "channels": search.channels, "num_classes": search.num_classes},
        objectives=search.objectives,
        constraints=search.constraints,
        confidence=search.confidence,
        interval_confidence=search.interval_confidence,
        strategy=search.strategy,
        seed=search.seed,
        budget=SpentBudget(evaluations=search.evaluations, minutes=search.minutes),
        stop=outcome.stop,
        evaluations=outcome.evaluations,
        candidates=len(outcome.candidates.genomes),
        satisfiable=satisfiable,
        elapsed_s=ended.elapsed_s,
        box=outcome.box,
        history=ended.history,
        random_history=ended.random_history,
        supernet=None if supernet is None else str(supernet.path.resolve()),
        supernet_digest=search.supernet_digest,
        data=None if supernet is None else supernet.data.name,
        num_pictures=None if supernet is None else len(supernet.data.heldout),
        supernet_health=_health(bench, truth),
        predictors=tuple(_used(bench, place) for place in range(len(bench.predictors))),
        front=tuple(candidate.arch_id for candidate in bench.space.candidates(genomes)),
        measured_front=None,
        landmarks=landmarks(
            bench.cheap.predictors,
            confidence=bench.cheap.confidence,
            accuracies=_landmark_accuracies(supernet, runs),
        ),
        verification=None,
        kit=(),
        seeds=ended.seeds,
        notes=(*_data_notes(supernet), *_outside_notes(bench, outcome), *_health_notes(bench, truth)),
    )


def with_notes(record: SearchRecord, *notes: str) -> SearchRecord:
    """The record with more to say."""
    return replace(record, notes=tuple(dict.fromkeys([*record.notes, *notes])))


def _used(bench: Bench, place: int) -> UsedPredictor:
    choice, (_, item) = bench.search.predictors[place], bench.predictors[place]
    return UsedPredictor(metric=choice.metric, path=str(choice.path), card=card_json(item.predictor.card))


def _health(bench: Bench, truth: "TrueAccuracy | None") -> SupernetHealth | None:
    if truth is None:
        return None
    space = bench.space
    smallest, largest = truth.of(space.encode([space.smallest(), space.largest()]))
    return SupernetHealth(smallest=smallest, largest=largest)


def _health_notes(bench: Bench, truth: "TrueAccuracy | None") -> tuple[str, ...]:
    health = _health(bench, truth)
    if health is None or bench.supernet is None:
        return ()
    num_images = len(bench.supernet.data.heldout)
    warning = indistinct_supernet_warning(health.smallest, health.largest, num_images=num_images)
    return () if warning is None else (warning,)


def _landmark_accuracies(supernet: "OpenSupernet | None", runs: Path) -> dict[str, float]:
    if supernet is None:
        return {}
    from hwnas.pipeline.train import read_train_config
    from hwnas.runs import Run

    config = read_train_config(Run.open(supernet.path)) if supernet.path.is_dir() else None
    data = {"name": supernet.data.name, "seed": 0 if config is None else config.data.seed}
    return known_accuracies(runs, data=data, num_pictures=len(supernet.data.heldout))


def _data_notes(supernet: "OpenSupernet | None") -> tuple[str, ...]:
    return () if supernet is None else tuple(supernet.data.notes)


def _outside_notes(bench: Bench, outcome: Outcome) -> tuple[str, ...]:
    """How many networks are unlike all that a predictor was fitted to."""
    genomes = outcome.candidates.genomes
    if not len(genomes):
        return ()
    notes = []
    for name, mask in bench.cheap.outside(genomes).items():
        on_front = int(np.count_nonzero(mask[outcome.rows]))
        if mask.any():
            notes.append(
                f"{name}: {int(mask.sum())} of {len(mask)} candidates, {on_front} of {len(outcome.rows)} on the front, "
                "lie outside what the predictor was fitted to"
            )
    return tuple(notes)
