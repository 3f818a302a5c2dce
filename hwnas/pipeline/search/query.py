"""`hwnas query`: the front of a finished search for other constraints, objectives or devices, without searching."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.arguments import checked_arguments
from hwnas.devices import resolve
from hwnas.errors import InputError
from hwnas.frames import Columns, TabularResult
from hwnas.metrics import QUALITIES, UNSPECIFIED, Deployment, Metric, parse_metric
from hwnas.pipeline.search.context import load_predictor
from hwnas.pipeline.search.defaults import combine_errors, resolve_metrics
from hwnas.pipeline.search.deployments import open_metric, requested_deployments, require_open, with_batches
from hwnas.pipeline.search.options import SearchOptions, parse_criteria
from hwnas.pipeline.search.predicted_metrics import (
    CheapMetrics,
    MetricPredictor,
    require_confidence,
    supported_confidence,
)
from hwnas.predict.intervals import DEFAULT_CONFIDENCE
from hwnas.predict.selector import ChosenPredictor
from hwnas.report.data import comparable_networks
from hwnas.search import choice
from hwnas.search.objective import Criteria, parse_objective
from hwnas.search.problem import Problem
from hwnas.search.query import QueriedFront, query_study
from hwnas.search.record import ReferenceNetwork, read_record
from hwnas.search.spec import SearchSpec
from hwnas.search.study import Study
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace, Genomes, Mask

_MAX_CLOSEST = 3
"""Networks that are named where none meets the constraints."""


@dataclass(frozen=True, kw_only=True)
class QueriedNetwork:
    """One network of the front that a query found."""

    arch_id: str
    """Followed by the deployment where the search chose among several."""
    network_id: str
    arch: Mapping[str, Any]
    metrics: Mapping[str, float]
    lower: Mapping[str, float]
    """The lower ends of the intervals of predicted metrics."""
    upper: Mapping[str, float]
    measured: Mapping[str, float]
    """The values that were measured when the search was verified."""
    deployment: str | None = None
    """The deployment that the search chose; None where it had no choice."""
    float_accuracy: float | None = None
    """Accuracy in float32, if the network is on the searched front in a precision that changes accuracy."""
    outside: str = ""
    """Names of metrics whose predictor was fitted to no networks like this one, so that their values are extrapolated,
    as in the tables of a front."""
    predicted: str = ""
    """Names of metrics that were not measured and have a constraint, which is checked on their prediction."""


@dataclass(frozen=True, kw_only=True)
class MissedConstraint:
    """A constraint that a network does not meet."""

    constraint: str
    metric: str
    """The name of its metric."""
    value: float
    """The value that is compared with the bound."""
    measured: bool | None
    """False: it is predicted; None: the metric is not of a device."""
    share: float
    """The share of the bound by which the value misses it."""


@dataclass(frozen=True, kw_only=True)
class ClosestNetwork:
    """A network that misses the constraints of a query by little."""

    arch_id: str
    network_id: str
    missed: tuple[MissedConstraint, ...]


@dataclass(frozen=True, kw_only=True)
class QueryResult(TabularResult):
    """The front of a study's candidates under other criteria."""

    run: Path
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    confidence: float | None
    candidates: int
    networks: tuple[QueriedNetwork, ...]
    notes: tuple[str, ...]
    reference_networks: tuple[ReferenceNetwork, ...] = ()
    """Networks to compare the front with; their metrics are those of the search."""
    closest: tuple[ClosestNetwork, ...] = ()
    """The networks that miss the constraints by the least, if none meets them."""

    @property
    def balanced(self) -> QueriedNetwork | None:
        """The balanced network, by measured values or else predictions; one of those that were measured, if any were.

        None if there is none with values for all objectives.
        """
        networks = [network for network in self.networks if network.measured] or list(self.networks)
        objectives = [parse_objective(text).metric for text in self.objectives]
        names = list(map(str, objectives))
        values = [[item.measured.get(name, item.metrics[name]) for name in names] for item in networks]
        row = choice.balanced(objectives, np.array(values, dtype=np.float64)) if networks else None
        return None if row is None else networks[row]

    def _columns(self) -> Columns:
        columns: dict[str, list[object]] = {
            name: [getattr(network, name) for network in self.networks] for name in ("arch_id", "network_id")
        }
        if any(network.deployment is not None for network in self.networks):
            columns["deployment"] = [network.deployment for network in self.networks]
        for name in self.networks[0].metrics if self.networks else ():
            columns[name] = [network.metrics[name] for network in self.networks]
            if any(network.lower[name] < network.upper[name] for network in self.networks):
                columns[f"{name}_lower"] = [network.lower[name] for network in self.networks]
                columns[f"{name}_upper"] = [network.upper[name] for network in self.networks]
            if any(name in network.measured for network in self.networks):
                columns[f"{name}_measured"] = [network.measured.get(name, np.nan) for network in self.networks]
        if any(network.float_accuracy is not None for network in self.networks):
            columns["accuracy_fp32"] = [network.float_accuracy for network in self.networks]
        columns["outside"] = [network.outside for network in self.networks]
        columns["predicted"] = [network.predicted for network in self.networks]
        return {**columns, "arch": [network.arch for network in self.networks]}


@checked_arguments
def query(
    run: Path,
    *,
    objectives: Sequence[str] | None = None,
    constraints: Sequence[str] = (),
    device: str | None = None,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = (),
    confidence: float | None = None,
    predictors: Path | None = None,
) -> QueryResult:
    """Return the front of everything a search evaluated, under other objectives, constraints or on another device.

    Nothing is evaluated except by predictors. Constraints are checked on measured values where a network has them.

    Args:
        run: The run of a search that has ended.
        objectives: In place of the search's, in addition to accuracy and MACs if the search had them.
        constraints: In place of the search's; a bound on the search's device does not apply on another one.
        device: The device of all device metrics that name none; None: that of the search.
        runtimes: Candidates in these alone, of a search that chose among runtimes.
        precisions: Candidates in these alone, of a search that chose among precisions.
        confidence: Check constraints against the unfavourable ends of intervals of this confidence; None: as before.
        predictors: The only folder to look for predictors in.

    Raises:
        HwnasError: The run has not ended, the criteria are wrong, or a metric has no predictor.
    """
    if confidence is not None and not 0 < confidence < 1:
        raise InputError("confidence must be between 0 and 1", got=confidence, hint="0.9")
    record = read_record(run)
    spec, space = record.spec, record.spec.load_space(run)
    criteria, notes = _requested(run, spec, objectives, constraints, device)
    within = _in_deployments(space, requested_deployments(runtimes, precisions))
    with Study.read(run) as study:
        searched = {str(metric): metric for metric in _searched_metrics(spec)}
        known = {**searched, **study.parsed_metrics()}
        criteria, chosen = _resolve(criteria, known, space, device=device, predictors=predictors)
        wanted = spec.confidence if confidence is None else confidence
        problem = Problem.of(criteria, space=space, confident=wanted is not None)
        available = _predictors(run, spec, chosen, problem)
        if confidence is not None:
            require_confidence(available, confidence)
        held = None if wanted is None else supported_confidence(available, wanted)
        intervals = held or supported_confidence(available, DEFAULT_CONFIDENCE)
        recompute = CheapMetrics(space=space, predictors=available, confidence=intervals)
        # The study holds intervals of the search's confidence: those of another one are computed again.
        outdated = () if held in (None, spec.interval_confidence) else tuple(searched)
        found = query_study(study, problem, recompute=recompute, outdated=outdated, within=within)
        outside = _outside(recompute, found)
    networks = _networks(found, problem, float_accuracies=record.float_accuracies, outside=outside)
    notes += [f"predictor {item.note}; {item.path}" for _, item in chosen if str(item.metric) not in known]
    cards = [item.predictor.card for item in available]
    notes += [f"{card.metric}: {card.notes[0]}" for card in cards if card.is_unmeasured or card.is_interpolated]
    notes += _outside_notes(outside)
    if held is not None and wanted is not None and held < wanted:
        few = f"the predictors were fitted to too few networks for the search's {wanted:g}"
        notes.append(f"confidence {held:g}: {few}")
    return QueryResult(
        run=run,
        objectives=tuple(map(str, criteria.objectives)),
        constraints=tuple(map(str, criteria.constraints)),
        confidence=held,
        candidates=len(found.genomes),
        networks=networks,
        notes=tuple(notes),
        reference_networks=comparable_networks(record, space),
        closest=() if networks else _closest(found, problem),
    )


def _requested(
    run: Path,
    spec: SearchSpec,
    objectives: Sequence[str] | None,
    constraints: Sequence[str],
    device: str | None,
) -> tuple[Criteria, list[str]]:
    """Return the criteria of the query, those of the search in place of what is left out, and notes on them."""
    own, notes = spec.criteria, []
    quality = own.quality if own.quality in spec.objectives else None
    others = [name for name in QUALITIES if name == quality and name != "accuracy"]
    options = SearchOptions(
        objectives=(*(objectives or spec.objectives), *others),
        constraints=tuple(constraints),
        accuracy=quality == "accuracy",
        macs="macs" in spec.objectives,
    )
    criteria = parse_criteria(options, command=f"hwnas query {shlex.quote(str(run))}")
    if not objectives:
        criteria = replace(criteria, objectives=own.objectives)
        if device is not None:
            # Two settings of a metric on the search's device may become one on the other device.
            bare = own.with_metrics({metric: Metric(name=metric.name) for metric in own.device_metrics})
            criteria = replace(criteria, objectives=tuple(dict.fromkeys(bare.objectives)))
    if not constraints:
        left_out = [] if device is None else [item for item in own.constraints if item.metric.quantity.on_device]
        criteria = replace(criteria, constraints=tuple(item for item in own.constraints if item not in left_out))
        if left_out:
            notes.append(f"without {', '.join(map(str, left_out))}: the search's device is another one")
    if device is not None and not criteria.device_metrics:
        notes.append(f"no metric of a device is requested, so {device} changes nothing")
    return criteria, notes


def _searched_metrics(spec: SearchSpec) -> list[Metric]:
    """Return the predicted metrics of a search, as they are in its study."""
    metrics = [parse_metric(item.metric) for item in spec.predictors]
    if spec.deployments is None:
        return metrics
    return [open_metric(metric, spec.deployment_of(metric) or UNSPECIFIED) for metric in metrics]


def _in_deployments(space: AnySpace, requested: Sequence[Deployment]) -> Callable[[Genomes], Mask] | None:
    """Return a function that says which candidates are in one of the requested deployments; None: all are."""
    if UNSPECIFIED in requested:
        return None
    if not isinstance(space, DeployedSpace):
        message = "the search must have chosen among runtimes or precisions"
        raise InputError(message, got=", ".join(map(str, requested)), hint="leave out --runtime and --precision")
    rows = [row for row, own in enumerate(space.deployments) if any(item.matches(own) for item in requested)]
    if not rows:
        message = "the search must have had a requested deployment"
        raise InputError(message, got=", ".join(map(str, requested)), known=tuple(map(str, space.deployments)))
    return lambda genomes: np.isin(genomes[:, -1], rows)


def _resolve(
    criteria: Criteria, known: Mapping[str, Metric], space: AnySpace, *, device: str | None, predictors: Path | None
) -> tuple[Criteria, list[tuple[Deployment | None, ChosenPredictor]]]:
    """Complete the metrics by those that the study holds, and the others by predictors, in each deployment."""
    elsewhere = device is not None
    if device is None:
        stored = {metric: _stored_metric(metric, known) for metric in criteria.device_metrics}
        criteria = criteria.with_metrics({metric: item for metric, item in stored.items() if item is not None})
        # Metrics without a device are of the search's device if it had one, whichever machine this is.
        devices = {metric.deployment.device for metric in known.values() if metric.deployment.device is not None}
        device = devices.pop() if len(devices) == 1 else None
    chosen: list[tuple[Deployment | None, ChosenPredictor]] = []
    deployments = _wanted_deployments(space, elsewhere=elsewhere)
    require_open(criteria, [item for _, item in deployments])
    completed = criteria
    for own, wanted in deployments:
        missing = {metric: metric.completed(wanted) for metric in criteria.device_metrics if str(metric) not in known}
        resolved = resolve_metrics(
            criteria.with_metrics(missing), space=space.name, device=device, predictors=predictors, known=known
        )
        if resolved.missing:
            raise combine_errors(list(resolved.missing.values()))
        chosen += [(own, item) for item in resolved.predictors]
        completed = resolved.completed
        if own is not None:
            criteria = with_batches(criteria, completed)
            metrics = [item for item in completed.device_metrics if str(item) not in known]
            completed = completed.with_metrics({metric: open_metric(metric, own) for metric in metrics})
    return completed, chosen


def _wanted_deployments(space: AnySpace, *, elsewhere: bool) -> list[tuple[Deployment | None, Deployment]]:
    """Return the deployments of a space, each with what predictors must match.

    On another device a runtime or precision that all deployments have in common is not what was searched, and is open.
    """
    if not isinstance(space, DeployedSpace):
        return [(None, UNSPECIFIED)]
    pairs = []
    for own in space.deployments:
        shared = {
            name: None
            for name in ("runtime", "precision")
            if elsewhere and len({getattr(item, name) for item in space.deployments}) == 1
        }
        pairs.append((own, replace(own, **shared)))
    return list(pairs)


def _stored_metric(metric: Metric, known: Mapping[str, Metric]) -> Metric | None:
    """Return the first complete metric that has everything `metric` names; its device may be an alias."""
    device = metric.deployment.device
    named = [metric] if device is None else [metric, metric.with_device(resolve(device))]
    return next((item for wanted in named for item in known.values() if wanted.matches(item)), None)


def _predictors(
    run: Path, spec: SearchSpec, chosen: Sequence[tuple[Deployment | None, ChosenPredictor]], problem: Problem
) -> tuple[MetricPredictor, ...]:
    """Return the predictors of the problem's metrics: the copies in the run, and those found for other metrics."""
    columns = zip(spec.predictors, _searched_metrics(spec), strict=True)
    own = [load_predictor(run, spec, item) for item, column in columns if str(column) in problem.metrics]
    names = {str(item.metric) for item in own}
    others = [
        MetricPredictor(metric=item.metric, predictor=item.predictor, deployment=deployment)
        for deployment, item in chosen
        if str(item.metric) not in names
    ]
    return (*own, *others)


def _outside(cheap: CheapMetrics, found: QueriedFront) -> list[tuple[str, ...]]:
    """Return for each network of a front the metrics whose predictors were fitted to none like it."""
    masks = cheap.outside(found.genomes[found.rows]) if len(found.rows) else {}
    columns = {str(item.metric): str(item.column) for item in cheap.predictors}
    return [
        tuple(dict.fromkeys(columns[name] for name, mask in masks.items() if mask[row]))
        for row in range(len(found.rows))
    ]


def _outside_notes(outside: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for metric in dict.fromkeys(metric for metrics in outside for metric in metrics):
        count = sum(metric in metrics for metrics in outside)
        yield (
            f"{metric}: {count} of {len(outside)} networks lie outside what the predictor was fitted to; their values "
            "are extrapolated, and hwnas predict refuses them without --allow-outside"
        )


def _networks(
    found: QueriedFront,
    problem: Problem,
    *,
    float_accuracies: Mapping[str, float],
    outside: Sequence[tuple[str, ...]],
) -> tuple[QueriedNetwork, ...]:
    rows = found.rows
    measured = {name: values[rows] for name, values in found.measured.items()}
    names = list(dict.fromkeys([*problem.metrics, *(name for name in ("macs", "params") if name in found.metrics)]))
    return tuple(
        QueriedNetwork(
            arch_id=candidate.id,
            network_id=candidate.network_id,
            deployment=None if candidate.deployment is None else str(candidate.deployment),
            arch=candidate.arch.to_mapping(),
            float_accuracy=float_accuracies.get(candidate.network_id),
            metrics={name: float(found.metrics[name].mean[row]) for name in names},
            lower={name: float(found.metrics[name].lower[row]) for name in names},
            upper={name: float(found.metrics[name].upper[row]) for name in names},
            measured={name: float(values[index]) for name, values in measured.items() if np.isfinite(values[index])},
            outside=", ".join(dict.fromkeys(parse_metric(metric).name for metric in outside[index])),
            predicted=", ".join(
                dict.fromkeys(
                    constraint.metric.name
                    for constraint in problem.constraints
                    if constraint.metric.quantity.on_device and not _is_measured(found, constraint.metric, row)
                )
            ),
        )
        for index, (row, candidate) in enumerate(zip(rows, problem.space.candidates(found.genomes[rows]), strict=True))
    )


def _closest(found: QueriedFront, problem: Problem) -> tuple[ClosestNetwork, ...]:
    rows = found.closest(_MAX_CLOSEST)
    return tuple(
        ClosestNetwork(
            arch_id=candidate.id,
            network_id=candidate.network_id,
            missed=tuple(
                MissedConstraint(
                    constraint=str(constraint),
                    metric=constraint.metric.name,
                    value=float(
                        constraint.compared(found.checked[str(constraint.metric)], confident=problem.confident)[row]
                    ),
                    measured=(
                        _is_measured(found, constraint.metric, row) if constraint.metric.quantity.on_device else None
                    ),
                    share=share,
                )
                for constraint, share in zip(problem.constraints, found.scores.violations[row].tolist(), strict=True)
                if share > 0
            ),
        )
        for row, candidate in zip(rows, problem.space.candidates(found.genomes[rows]), strict=True)
    )


def _is_measured(found: QueriedFront, metric: Metric, row: int) -> bool:
    values = found.measured.get(str(metric))
    return values is not None and bool(np.isfinite(values[row]))
