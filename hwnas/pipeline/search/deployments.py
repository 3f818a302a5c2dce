"""The deployments that a search chooses among: requested runtimes and precisions, each with predictors of its own."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hwnas.errors import HwnasError, InputError, unknown
from hwnas.metrics import PRECISIONS, QUANTISED, RUNTIMES, UNSPECIFIED, Deployment, Metric
from hwnas.pipeline.search.defaults import ResolvedMetrics
from hwnas.predict.selector import ChosenPredictor
from hwnas.search.objective import Criteria

_PARTS = ("runtime", "precision")
"""The parts of a deployment that a search can choose."""

Resolve = Callable[[Criteria], ResolvedMetrics]
"""Chooses a predictor for each device metric of some criteria."""


@dataclass(frozen=True, kw_only=True)
class DeployedMetrics:
    """The metrics of a search with their predictors, in one deployment or in each of those that it chooses among."""

    criteria: Criteria
    """The deployment with the searched parts left open, and all others as the predictors have them."""
    deployments: tuple[Deployment, ...]
    """Those that the search chooses among; empty if there is nothing to choose."""
    predictors: tuple[tuple[Deployment | None, ChosenPredictor], ...]
    """Each with its deployment; None: the only one."""
    problems: tuple[HwnasError, ...]
    notes: tuple[str, ...]


def requested_deployments(runtimes: Sequence[str], precisions: Sequence[str]) -> tuple[Deployment, ...]:
    """Return the combinations of the requested runtimes and precisions, or one deployment that specifies nothing."""
    runtimes = _names("runtime", runtimes, RUNTIMES.names())
    precisions = _names("precision", precisions, PRECISIONS)
    return tuple(
        Deployment(runtime=runtime, precision=precision)
        for runtime in runtimes or (None,)
        for precision in precisions or (None,)
    )


def resolve_deployments(criteria: Criteria, requested: Sequence[Deployment], *, resolve: Resolve) -> DeployedMetrics:
    """Choose the predictors of each deployment.

    Of several runtimes and several precisions, combinations without a predictor are left out, with a note, as long as
    each runtime and each precision remains in another combination.

    Args:
        criteria: The requested objectives and constraints.
        requested: The requested deployments.
        resolve: Chooses a predictor for each device metric.

    Raises:
        InputError: A metric names a part of its deployment that is to be searched.
    """
    require_open(criteria, requested)
    found = _resolved(criteria, requested, resolve)
    left_out = [item for item in requested if found[item].missing and _is_replaceable(item, found)]
    kept = [item for item in requested if item not in left_out]
    resolved = [found[item] for item in kept]
    notes = [f"without {item}: {next(iter(found[item].missing.values())).message}" for item in left_out]
    notes += [note for item in resolved for note in item.notes]
    problems = tuple(error for item in resolved for error in item.missing.values())
    if len(kept) == 1 or problems:
        return DeployedMetrics(
            criteria=resolved[0].completed,
            deployments=(),
            predictors=tuple((None, item) for item in resolved[0].predictors),
            problems=problems,
            notes=tuple(notes),
        )
    deployments = _completed_deployments(kept, resolved)
    pairs = list(zip(deployments, resolved, strict=True))
    opened = [_opened(item.completed, deployment) for deployment, item in pairs]
    if any(other != opened[0] for other in opened):
        got = "; ".join(", ".join(map(str, item.metrics)) for item in opened)
        message = "metrics must be of one device and one batch in all deployments"
        raise InputError(message, got=got, hint="--objective throughput@DEVICE/b1")
    return DeployedMetrics(
        criteria=opened[0],
        deployments=deployments,
        predictors=tuple((deployment, item) for deployment, metrics in pairs for item in metrics.predictors),
        problems=(),
        notes=tuple(notes),
    )


def open_metric(metric: Metric, deployment: Deployment) -> Metric:
    """Return a metric without the parts of its deployment that a searched one states."""
    searched = {name: None for name in _PARTS if getattr(deployment, name) is not None}
    return replace(metric, deployment=replace(metric.deployment, **searched))


def require_rounding_only(precisions: Iterable[str | None], *, quality: str | None) -> None:
    """Require precisions that only round, unless the quality is accuracy, which is evaluated in the others as well."""
    for precision in precisions:
        if precision in QUANTISED and quality not in (None, "accuracy"):
            message = f"{quality} in {precision} cannot be evaluated with the weights of a supernet"
            raise InputError(message, got=str(precision), hint="another --precision, or accuracy in place of it")


def changed_accuracy(metrics: DeployedMetrics) -> str | None:
    """Return the precision that all networks of a search run in, if it changes their accuracy; None if it does not."""
    precisions = {metric.deployment.precision for metric in metrics.criteria.device_metrics}
    precision = precisions.pop() if len(precisions) == 1 else None
    return precision if precision in QUANTISED else None


def _names(kind: str, given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    for name in given:
        if name not in known:
            raise unknown(kind, name, known, hint=f"--{kind} {{}}")
    return tuple(dict.fromkeys(given))


def require_open(criteria: Criteria, deployments: Sequence[Deployment]) -> None:
    """Require that no metric names another runtime or precision than a deployment that is searched."""
    for metric, deployment in itertools.product(criteria.device_metrics, deployments):
        for part in _PARTS:
            own, searched = getattr(metric.deployment, part), getattr(deployment, part)
            if own is not None and searched not in (None, own):
                message = f"a metric must leave open the {part} where --{part} is given or was searched"
                raise InputError(message, got=f"{metric} and {part} {searched}", hint=f"{metric.name}@DEVICE")


def _resolved(
    criteria: Criteria, requested: Sequence[Deployment], resolve: Resolve
) -> dict[Deployment, ResolvedMetrics]:
    """Return the metrics of each deployment, with batch sizes that are the same in all of them.

    Of the batch sizes that single deployments would have, those with predictors for most deployments are taken.
    """
    if len(requested) == 1:
        return {requested[0]: resolve(_in_deployment(criteria, requested[0]))}
    alone = {deployment: _resolved_in(criteria, deployment, resolve) for deployment in requested}
    best = None
    for candidate in dict.fromkeys(with_batches(criteria, it.completed) for it in alone.values() if not it.missing):
        shared = {deployment: _resolved_in(candidate, deployment, resolve) for deployment in requested}
        if best is None or _num_missing(shared) < _num_missing(best):
            best = shared
    return best or alone


def _num_missing(resolved: Mapping[Deployment, ResolvedMetrics]) -> int:
    return sum(bool(item.missing) for item in resolved.values())


def _resolved_in(criteria: Criteria, deployment: Deployment, resolve: Resolve) -> ResolvedMetrics:
    """Return the metrics of a deployment, with one runtime on each device."""
    resolved = resolve(_in_deployment(criteria, deployment))
    runtimes = {item.metric.deployment.runtime for item in resolved.predictors}
    return resolved if resolved.missing or len(runtimes) < 2 else resolve(_with_one_runtime(resolved))


def _in_deployment(criteria: Criteria, deployment: Deployment) -> Criteria:
    if deployment == UNSPECIFIED:
        return criteria
    return criteria.with_metrics({metric: metric.completed(deployment) for metric in criteria.device_metrics})


def _with_one_runtime(resolved: ResolvedMetrics) -> Criteria:
    """Return the criteria with the runtime of the first metric of each device, which is then that of all."""
    runtimes: dict[str | None, str | None] = {}
    for item in resolved.predictors:
        runtimes.setdefault(item.metric.deployment.device, item.metric.deployment.runtime)
    return resolved.criteria.with_metrics(
        {
            metric: metric.completed(Deployment(runtime=runtimes[metric.deployment.device]))
            for metric in resolved.criteria.device_metrics
        }
    )


def with_batches(criteria: Criteria, completed: Criteria) -> Criteria:
    """Return the criteria with the batch sizes of completed ones."""
    pairs = zip(
        [*(item.metric for item in criteria.objectives), *(item.metric for item in criteria.constraints)],
        [*(item.metric for item in completed.objectives), *(item.metric for item in completed.constraints)],
        strict=True,
    )
    return criteria.with_metrics(
        {metric: metric.completed(Deployment(batch=full.deployment.batch)) for metric, full in pairs}
    )


def _is_replaceable(deployment: Deployment, found: dict[Deployment, ResolvedMetrics]) -> bool:
    """Return True if the runtime and the precision of a deployment occur in others that have their predictors."""
    available = [item for item, metrics in found.items() if not metrics.missing]
    return all(any(getattr(other, part) == getattr(deployment, part) for other in available) for part in _PARTS)


def _completed_deployments(
    requested: Sequence[Deployment], resolved: Sequence[ResolvedMetrics]
) -> tuple[Deployment, ...]:
    """Return the deployments with what all metrics agree on, such as the runtime where one device is searched for."""
    completed = list(requested)
    for part in _PARTS:
        values = [
            {getattr(metric.deployment, part) for metric in metrics.completed.device_metrics} for metrics in resolved
        ]
        if all(len(known) == 1 for known in values):
            completed = [replace(item, **{part: min(known)}) for item, known in zip(completed, values, strict=True)]
    return tuple(completed)


def _opened(criteria: Criteria, deployment: Deployment) -> Criteria:
    return criteria.with_metrics({metric: open_metric(metric, deployment) for metric in criteria.device_metrics})
