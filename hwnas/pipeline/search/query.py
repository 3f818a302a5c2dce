"""`hwnas query`: a search that has ended asked for other constraints, objectives or devices, without searching."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwnas.devices import resolve
from hwnas.metrics import Metric, parse_metric
from hwnas.pipeline.search.defaults import Asked, complete
from hwnas.pipeline.search.options import DEFAULT_CONFIDENCE, SearchOptions, parsed
from hwnas.pipeline.search.predicted_metrics import (
    CheapMetrics,
    MetricPredictor,
    require_confidence,
    supported_confidence,
)
from hwnas.predict.store import load_predictor
from hwnas.progress import NullReporter
from hwnas.runs import Run
from hwnas.search.objective import Constraint, Objective, parse_constraint, parse_objective
from hwnas.search.problem import Problem
from hwnas.search.query import Answer
from hwnas.search.query import query as ask
from hwnas.search.record import SearchRecord, read_record, searched_space
from hwnas.search.same_space import require_same_space
from hwnas.search.study import Study
from hwnas.space.space import AnySpace


@dataclass(frozen=True, kw_only=True)
class QueriedNetwork:
    """One network of an answer."""

    arch_id: str
    network_id: str
    arch: Mapping[str, Any]
    metrics: Mapping[str, float]
    lower: Mapping[str, float]
    """The lower ends of the intervals of what is predicted."""
    upper: Mapping[str, float]
    measured: Mapping[str, float]
    """What was measured of it when the search was verified."""


@dataclass(frozen=True, kw_only=True)
class Queried:
    """What a study answers."""

    run: Path
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    confidence: float | None
    candidates: int
    networks: tuple[QueriedNetwork, ...]
    notes: tuple[str, ...]


def query(
    run: Path,
    *,
    objectives: Sequence[str] | None = None,
    constraints: Sequence[str] = (),
    device: str | None = None,
    confidence: float | None = None,
    predictors: Path | None = None,
) -> Queried:
    """The front of what a search evaluated, for other objectives and constraints, or on another device.

    Without objectives they are those of the search; with a device, their device metrics are of that one. Nothing is
    evaluated but what predictors say.
    """
    record = read_record(run)
    space = searched_space(record)
    notes: list[str] = []
    asked = _asked(record, objectives, constraints, device, confidence, notes=notes)
    own = _own_metrics(record)
    with Study.read(run) as study:
        doubt = require_same_space(study, space, made_by=Run.open(run).manifest.environment.hwnas)
        notes += [] if doubt is None else [doubt]
        known = {**own, **{name: parse_metric(name) for name in study.metrics}}
        found = _completed(asked, known, record, device=device, predictors=predictors, notes=notes)
        wanted = record.confidence if confidence is None else confidence
        problem = Problem(
            space=space, objectives=found.objectives, constraints=found.constraints, confident=wanted is not None
        )
        every = _predictors(run, record, found, problem)
        held = _held(every, wanted, asked=confidence is not None, notes=notes)
        best = held or supported_confidence(every, DEFAULT_CONFIDENCE)
        recompute = CheapMetrics(space=space, predictors=every, confidence=best)
        # The study holds intervals of the search's confidence: those of another one are made anew.
        anew = () if held in (None, record.interval_confidence) else tuple(own)
        answer = ask(study, problem, recompute=recompute, anew=anew)
        measured = _measured(study, answer)
    return Queried(
        run=run,
        objectives=tuple(map(str, found.objectives)),
        constraints=tuple(map(str, found.constraints)),
        confidence=held,
        candidates=len(answer.genomes),
        networks=_networks(space, answer, problem, measured),
        notes=tuple(notes),
    )


def _asked(
    record: SearchRecord,
    objectives: Sequence[str] | None,
    constraints: Sequence[str],
    device: str | None,
    confidence: float | None,
    *,
    notes: list[str],
) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """What is asked for; objectives of the search on another device lose their setting there."""
    options = SearchOptions(
        objectives=tuple(objectives or ()),
        constraints=tuple(constraints),
        confidence=confidence,
        accuracy=not objectives or "accuracy" in record.objectives,
        macs="macs" in record.objectives,
    )
    wanted, held = parsed(options)
    if not objectives:
        wanted = tuple(map(parse_objective, record.objectives))
        if device is not None:
            # Two settings of a metric on the search's device may be one on the other.
            wanted = tuple(dict.fromkeys(replace(one, metric=_bare(one.metric)) for one in wanted))
    return wanted, held if constraints else _own_constraints(record, device, notes=notes)


def _own_constraints(record: SearchRecord, device: str | None, *, notes: list[str]) -> tuple[Constraint, ...]:
    """Those of the search; a bound on one device says nothing about another one."""
    own = tuple(map(parse_constraint, record.constraints))
    if device is None:
        return own
    left_out = [one for one in own if one.metric.quantity.on_device]
    if left_out:
        notes.append(f"without {', '.join(map(str, left_out))}: the search's device is another one")
    return tuple(one for one in own if one not in left_out)


def _bare(metric: Metric) -> Metric:
    return Metric(name=metric.name)


def _own_metrics(record: SearchRecord) -> dict[str, Metric]:
    return {used.metric: parse_metric(used.metric) for used in record.predictors}


def _completed(
    asked: tuple[tuple[Objective, ...], tuple[Constraint, ...]],
    known: Mapping[str, Metric],
    record: SearchRecord,
    *,
    device: str | None,
    predictors: Path | None,
    notes: list[str],
) -> Asked:
    """Metrics as the study has them where they fit; the others are completed by a predictor."""

    def fitting(metric: Metric) -> Metric:
        if not metric.quantity.on_device or device is not None:
            return metric
        found = _first_fitting(metric, known)
        if found is None and metric.device is not None:
            found = _first_fitting(replace(metric, device=resolve(metric.device)), known)
        return found or metric

    def settled(metric: Metric) -> bool:
        return not metric.quantity.on_device or str(metric) in known

    objectives = tuple(replace(one, metric=fitting(one.metric)) for one in asked[0])
    constraints = tuple(replace(one, metric=fitting(one.metric)) for one in asked[1])
    metrics = [*(one.metric for one in objectives), *(one.metric for one in constraints)]
    if device is not None and not any(metric.quantity.on_device for metric in metrics):
        notes.append(f"no metric of a device is asked for, so {device} changes nothing")
    if all(map(settled, metrics)):
        return Asked(objectives=objectives, constraints=constraints, chosen=())
    found = complete(
        [one for one in objectives if not settled(one.metric)],
        [one for one in constraints if not settled(one.metric)],
        space=record.space,
        device=device or _searched_device(known),
        predictors=predictors,
        profiles=None,
        fitted=None,
        reporter=NullReporter(),
    )
    notes += [f"predictor {item.note}; {item.path}" for item in found.chosen if str(item.metric) not in known]
    new_objectives, new_constraints = iter(found.objectives), iter(found.constraints)
    return Asked(
        objectives=tuple(one if settled(one.metric) else next(new_objectives) for one in objectives),
        constraints=tuple(one if settled(one.metric) else next(new_constraints) for one in constraints),
        chosen=found.chosen,
    )


def _searched_device(known: Mapping[str, Metric]) -> str | None:
    """The one device of the search: what is asked for without a device is of that one, wherever this machine is."""
    found = {metric.device for metric in known.values() if metric.device is not None}
    return found.pop() if len(found) == 1 else None


def _first_fitting(asked: Metric, known: Mapping[str, Metric]) -> Metric | None:
    return next((one for one in known.values() if _fits(asked, one)), None)


def _fits(asked: Metric, one: Metric) -> bool:
    """Whether a complete metric is what is asked for, as far as that says."""
    names = ("device", "runtime", "precision", "batch")
    return asked.name == one.name and all(getattr(asked, name) in (None, getattr(one, name)) for name in names)


def _predictors(run: Path, record: SearchRecord, found: Asked, problem: Problem) -> tuple[MetricPredictor, ...]:
    """What predicts the metrics that the study lacks, or holds at another confidence."""
    own = [
        MetricPredictor(metric=parse_metric(used.metric), predictor=load_predictor(run / used.path))
        for used in record.predictors
        if used.metric in problem.metrics
    ]
    fresh = [
        MetricPredictor(metric=item.metric, predictor=item.predictor)
        for item in found.chosen
        if str(item.metric) not in {str(one.metric) for one in own}
    ]
    return (*own, *fresh)


def _held(
    predictors: tuple[MetricPredictor, ...], wanted: float | None, *, asked: bool, notes: list[str]
) -> float | None:
    """At which confidence constraints are held: one that is asked for here must be supported.

    That of the search is lowered to what the predictors of another device support, and that is said.
    """
    if wanted is None:
        return None
    if asked:
        require_confidence(predictors, wanted)
    held = supported_confidence(predictors, wanted)
    if held < wanted:
        notes.append(f"confidence {held:g}: the predictors were fitted to too few networks for the search's {wanted:g}")
    return held


def _measured(study: Study, answer: Answer) -> Mapping[str, Any]:
    names = [name for name in study.metrics if "measured" in study.source_of(name)]
    return {name: study.table([name], sources=("measured",)).metrics[name].mean[answer.rows] for name in names}


def _networks(
    space: AnySpace, answer: Answer, problem: Problem, measured: Mapping[str, Any]
) -> tuple[QueriedNetwork, ...]:
    rows = answer.rows
    names = list(dict.fromkeys([*problem.metrics, *(name for name in ("macs", "params") if name in answer.metrics)]))
    return tuple(
        QueriedNetwork(
            arch_id=candidate.arch_id,
            network_id=candidate.network_id,
            arch=candidate.arch.to_mapping(),
            metrics={name: float(answer.metrics[name].mean[row]) for name in names},
            lower={name: float(answer.metrics[name].lower[row]) for name in names},
            upper={name: float(answer.metrics[name].upper[row]) for name in names},
            measured={
                name: float(values[place]) for name, values in measured.items() if values[place] == values[place]
            },
        )
        for place, (row, candidate) in enumerate(zip(rows, space.candidates(answer.genomes[rows]), strict=True))
    )
