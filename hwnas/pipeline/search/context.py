"""The inputs of a search: resolved from options, or loaded again from the run that is resumed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.config import to_mapping
from hwnas.devices import Machine
from hwnas.files import path_within
from hwnas.metrics import Deployment, parse_metric
from hwnas.pipeline.search.defaults import (
    ResolvedMetrics,
    choose_space,
    combine_errors,
    fit_missing,
    other_quality,
    resolve_metrics,
    use_unmeasured,
)
from hwnas.pipeline.search.deployments import (
    DeployedMetrics,
    changed_accuracy,
    requested_deployments,
    require_rounding_only,
    resolve_deployments,
)
from hwnas.pipeline.search.options import (
    DEFAULT_BUDGET,
    DEFAULT_SPACE,
    TRAIN_COMMAND,
    SearchOptions,
    choose_strategy,
    parse_criteria,
)
from hwnas.pipeline.search.predicted_metrics import (
    CheapMetrics,
    MetricPredictor,
    require_confidence,
    supported_confidence,
)
from hwnas.predict.intervals import DEFAULT_CONFIDENCE
from hwnas.predict.predictor import Predictor
from hwnas.progress import Reporter
from hwnas.runs import Run, hwnas_version, package_versions
from hwnas.search.choice import Pick
from hwnas.search.ledger import Budget
from hwnas.search.objective import Criteria
from hwnas.search.problem import Problem
from hwnas.search.spec import PredictorSpec, SearchSpec, read_spec, space_digest
from hwnas.space import SPACES
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace
from hwnas.train.run_folder import require_path

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import OpenSupernet

PREDICTORS = "predictors"
"""The folder of a run that holds the predictors it used."""

_PACKAGES = ("moocore", "numpy", "pymoo", "scikit-learn", "scipy", "torch", "xgboost")
"""Packages that a search's result may depend on."""


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """Inputs of a search, loaded and validated."""

    spec: SearchSpec
    space: AnySpace
    cheap: CheapMetrics
    predictor_folders: tuple[Path, ...]
    """Folder of each predictor of `cheap`."""
    supernet: "OpenSupernet | None"

    @cached_property
    def problem(self) -> Problem:
        """Objectives and constraints, read from the specification once."""
        return self.spec.make_problem(self.space)


def prepare_search(
    options: SearchOptions, *, reporter: Reporter, machine: Machine | None = None, scratch: Path | None = None
) -> SearchContext:
    """Resolve the options of a search and load what it needs; `spec.notes` names the defaults that were taken.

    Args:
        options: What the user requested.
        reporter: Receives the progress of predictors that must be fitted first.
        machine: This machine, for tests.
        scratch: Where such predictors are written; None: the folder of predictors, where they are kept.

    Raises:
        HwnasError: An option is wrong, or a supernet or predictors are missing: one error for all of them, with the
            commands that make them.
    """
    criteria = parse_criteria(options)
    requested = requested_deployments(options.runtimes, options.precisions)
    choice = choose_space(options, needs_supernet=criteria.quality is not None)
    other = other_quality(choice, options, criteria)
    if other is not None:
        quality, reason = other
        options = replace(options, objectives=(quality, *options.objectives))
        criteria = parse_criteria(options)
        note = f"{quality} in place of accuracy, as {reason}"
        choice = replace(choice, notes=(*choice.notes, note))
    if choice.supernet is not None:
        require_path(choice.supernet, hint=TRAIN_COMMAND.format(space=choice.name or "autoformer-tiny"))
        from hwnas.pipeline.search.accuracy import open_supernet  # torch, which takes seconds

        supernet = open_supernet(choice.supernet, space=choice.name, data=options.data, quality=criteria.quality)
        space = supernet.space
        if options.post_search.repair:
            from hwnas.pipeline.repair import require_repairable

            require_repairable(space, choice.supernet)
        if options.post_search.retrain:
            from hwnas.pipeline.search.retraining import require_retrainable

            require_retrainable(supernet, options.post_search)
    else:
        supernet, space = None, SPACES.get(choice.name or DEFAULT_SPACE)

    fitted: set[tuple[str, str]] = set()

    def resolve(criteria: Criteria) -> ResolvedMetrics:
        metrics = resolve_metrics(
            criteria, space=space.name, device=options.device, predictors=options.predictors, machine=machine
        )
        out = scratch or options.predictors or Path(PREDICTORS)
        metrics = fit_missing(
            metrics,
            space=space.name,
            profiles=options.profiles,
            predictors=options.predictors,
            out=out,
            reporter=reporter,
            fitted=fitted,
            machine=machine,
        )
        if options.unmeasured and metrics.missing:
            return use_unmeasured(metrics, profiles=options.profiles, out=out, machine=machine)
        return metrics

    metrics = resolve_deployments(criteria, requested, resolve=resolve)
    problems = (*choice.problems, *metrics.problems)
    if problems:
        raise combine_errors(problems)
    precisions = (changed_accuracy(metrics), *(item.precision for item in metrics.deployments))
    require_rounding_only(precisions, quality=criteria.quality)
    predictors = tuple(
        MetricPredictor(metric=item.metric, predictor=item.predictor, deployment=deployment)
        for deployment, item in metrics.predictors
    )
    confidence = _interval_confidence(options, predictors)
    notes = (
        *choice.notes,
        *metrics.notes,
        *_predictor_notes(metrics, scratch),
        *_confidence_notes(confidence, options),
    )
    spec = _make_spec(options, metrics, space, supernet, interval_confidence=confidence, notes=notes)
    folders = [item.path for _, item in metrics.predictors]
    context = _make_context(spec, _deployed(space, metrics.deployments), predictors, folders, supernet)
    known = tuple(map(parse_metric, context.problem.metrics))
    Pick.parse(options.post_search.pick).require_known(known, resolved=True)  # before a search, which takes long
    return context


def reload_search(run: Path) -> SearchContext:
    """Load what a run was started with; whatever has changed since shows as another specification.

    Raises:
        InputError: The run is of another command or an older version, or its space, supernet or predictors are gone.
    """
    spec = read_spec(Run.open(run))
    space = spec.load_space(run)
    supernet = None
    if spec.supernet is not None:
        from hwnas.pipeline.search.accuracy import open_supernet

        quality = spec.criteria.quality
        supernet = open_supernet(spec.supernet.path, space=spec.space, data=spec.supernet.data, quality=quality)
        # Threads, matmul backend and precision are set as they were; all else must be what it was.
        names = ("threads", "matmul_backend", "precision")
        settings = {name: getattr(spec.supernet, name) for name in names}
        spec = replace(spec, supernet=replace(supernet.make_spec(), **settings))
    predictors = tuple(load_predictor(run, spec, item) for item in spec.predictors)
    pairs = zip(spec.predictors, predictors, strict=True)
    cards = tuple(replace(item, card_sha256=loaded.predictor.card.card_sha256) for item, loaded in pairs)
    folders = [run / item.path for item in spec.predictors]
    spec = replace(spec, predictors=cards, versions=versions())
    return _make_context(spec, space, predictors, folders, supernet)


def load_predictor(run: Path, spec: SearchSpec, item: PredictorSpec) -> MetricPredictor:
    """Load the copy of a predictor in a run."""
    metric = parse_metric(item.metric)
    predictor = Predictor.load(path_within(run, item.path))
    return MetricPredictor(metric=metric, predictor=predictor, deployment=spec.deployment_of(metric))


def pinned_cpu_settings(spec: SearchSpec) -> AbstractContextManager[None]:
    """Pin torch's thread count and matmul backend to those of a search, within a `with` block."""
    if spec.supernet is None:
        return nullcontext()
    from hwnas.train.machine import cpu_settings

    return cpu_settings(threads=spec.supernet.threads, matmul_backend=spec.supernet.matmul_backend)


def versions() -> tuple[str, ...]:
    """Return `name==version` of the packages that a result may depend on, hwnas first."""
    return (
        f"hwnas=={hwnas_version()}",
        *(f"{name}=={version}" for name, version in package_versions(_PACKAGES).items()),
    )


def _interval_confidence(options: SearchOptions, predictors: tuple[MetricPredictor, ...]) -> float | None:
    if not predictors:
        return None
    if options.confidence is not None:
        require_confidence(predictors, options.confidence)
        return options.confidence
    return supported_confidence(predictors, DEFAULT_CONFIDENCE)


def _predictor_notes(metrics: DeployedMetrics, scratch: Path | None) -> Iterator[str]:
    for _, item in metrics.predictors:
        kept = scratch is None or not item.path.is_relative_to(scratch)
        yield f"predictor {item.note}; {item.path if kept else 'fitted for this dry run and not kept'}"


def _confidence_notes(confidence: float | None, options: SearchOptions) -> Iterator[str]:
    if options.confidence is None and confidence is not None and confidence < DEFAULT_CONFIDENCE:
        few = f"the predictors were fitted to too few networks for {DEFAULT_CONFIDENCE:.0%}"
        yield f"intervals of {confidence:.0%}: {few}"


def _make_spec(
    options: SearchOptions,
    metrics: DeployedMetrics,
    space: AnySpace,
    supernet: "OpenSupernet | None",
    *,
    interval_confidence: float | None,
    notes: tuple[str, ...],
) -> SearchSpec:
    criteria = metrics.criteria
    strategy, settings = choose_strategy(options.strategy, space=space, expensive=criteria.quality is not None)
    default_budget = DEFAULT_BUDGET if options.minutes is None else None
    return SearchSpec(
        space=space.name,
        image_size=space.config.image_size,
        channels=space.config.channels,
        num_classes=space.config.num_classes,
        space_digest=space_digest(_deployed(space, metrics.deployments)),
        objectives=tuple(map(str, criteria.objectives)),
        constraints=tuple(map(str, criteria.constraints)),
        deployments=tuple(map(str, metrics.deployments)) or None,
        confidence=options.confidence,
        interval_confidence=interval_confidence,
        strategy=strategy,
        settings=to_mapping(settings),
        budget=Budget(evaluations=options.budget or default_budget, minutes=options.minutes),
        seed=options.seed,
        num_seeds=options.num_seeds,
        random_baseline=options.random_baseline,
        predictors=tuple(
            PredictorSpec(
                metric=str(item.metric),
                path=Path(PREDICTORS, *item.path.parts[-3:]),
                card_sha256=item.predictor.card.card_sha256,
            )
            for _, item in metrics.predictors
        ),
        supernet=None if supernet is None else replace(supernet.make_spec(), precision=changed_accuracy(metrics)),
        versions=versions(),
        post_search=options.post_search,
        notes=notes,
    )


def _deployed(space: AnySpace, deployments: Sequence[Deployment]) -> AnySpace:
    """Return the space that is searched: the networks, in several deployments if there is a choice."""
    return DeployedSpace.of(space, deployments) if deployments else space


def _make_context(
    spec: SearchSpec,
    space: AnySpace,
    predictors: tuple[MetricPredictor, ...],
    folders: Sequence[Path],
    supernet: "OpenSupernet | None",
) -> SearchContext:
    confidence = spec.interval_confidence or DEFAULT_CONFIDENCE
    return SearchContext(
        spec=spec,
        space=space,
        cheap=CheapMetrics(space=space, predictors=predictors, confidence=confidence),
        predictor_folders=tuple(folders),
        supernet=supernet,
    )
