"""Defaults for what a search's options leave out: the newest supernet of the space, the predictors of the device."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hwnas.data_paths import PROFILES, data_search_path
from hwnas.devices import Machine, detect, resolve
from hwnas.errors import HwnasError, InputError, MissingError, unknown
from hwnas.metrics import Metric, QualityMetric
from hwnas.pipeline.search.options import DEFAULT_SPACE, SearchOptions
from hwnas.predict.selector import (
    ChosenPredictor,
    NoPredictorError,
    choose_interpolated,
    choose_predictor,
    predicted_as,
    save_interpolated,
)
from hwnas.profile.lookup import profile_entries
from hwnas.progress import Reporter
from hwnas.runs import MANIFEST, SUPERNET, Run
from hwnas.search.objective import Criteria
from hwnas.space import SPACES


@dataclass(frozen=True, kw_only=True)
class SpaceChoice:
    """The space that is searched, and the supernet that evaluates its networks."""

    name: str | None
    """None: that of the supernet."""
    supernet: Path | None
    notes: tuple[str, ...] = ()
    problems: tuple[HwnasError, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ResolvedMetrics:
    """The criteria of a search with a predictor for each device metric, or why there is none."""

    criteria: Criteria
    """Every device metric has a device; those in `chosen` are not complete."""
    chosen: Mapping[Metric, ChosenPredictor]
    missing: Mapping[Metric, HwnasError]
    notes: tuple[str, ...] = ()

    @property
    def predictors(self) -> tuple[ChosenPredictor, ...]:
        """The predictors, one for each complete metric."""
        return tuple({str(item.metric): item for item in self.chosen.values()}.values())

    @property
    def completed(self) -> Criteria:
        """The criteria with device, runtime, precision and batch of each predictor."""
        return self.criteria.with_metrics({metric: item.metric for metric, item in self.chosen.items()})


def choose_space(options: SearchOptions, *, needs_supernet: bool) -> SpaceChoice:
    """Choose the space and, where one is needed and none is named, its newest trained supernet.

    Raises:
        InputError: No space has the requested name.
    """
    if options.space is not None and options.space not in SPACES:
        raise unknown("space", options.space, SPACES, hint="hwnas search --space {}")
    name = None if options.space is None else SPACES.resolve(options.space)
    if options.supernet is not None:
        return SpaceChoice(name=name, supernet=options.supernet)
    notes = () if name is not None else (f"space {DEFAULT_SPACE}, the default",)
    name = name or DEFAULT_SPACE
    if not needs_supernet:
        return SpaceChoice(name=name, supernet=None, notes=notes)
    path = newest_supernet(name, runs=options.runs)
    if path is not None:
        return SpaceChoice(name=name, supernet=path, notes=(*notes, f"supernet {path}, the newest one of {name}"))
    message = f"there is no trained supernet of {name} under {options.runs}"
    hint = f"hwnas train --space {name} --data DIR, or --no-accuracy"
    if options.space is None:
        other = newest_supernet(None, runs=options.runs)
        message = message if other is not None else f"there is no trained supernet under {options.runs}"
        hint = "hwnas init DIR, then hwnas train; or --no-accuracy"
        hint = hint if other is None else f"hwnas search --supernet {shlex.quote(str(other))}"
    error = InputError(message, got="no --supernet", hint=hint)
    return SpaceChoice(name=name, supernet=None, notes=notes, problems=(error,))


def other_quality(choice: SpaceChoice, options: SearchOptions, criteria: Criteria) -> tuple[QualityMetric, str] | None:
    """Return the metric of networks that have no accuracy, and why, where the options name none; None: they have it.

    Args:
        choice: The supernet.
        options: The data set and the objectives.
        criteria: The objectives and constraints, defaults included.
    """
    bounded = [item.metric.name for item in criteria.constraints]
    if criteria.quality != "accuracy" or "accuracy" in (*options.objectives, *bounded) or choice.supernet is None:
        return None
    if not (choice.supernet / MANIFEST).is_file() or "recipe" not in (run := Run.open(choice.supernet)).manifest.config:
        return None
    from hwnas.train.data.sources import absolute_data_name
    from hwnas.train.options import read_train_config
    from hwnas.train.tasks import QUALITY_OF_TASK

    training = read_train_config(run)
    if training.task != "classification":
        return QUALITY_OF_TASK[training.task], f"the networks of {choice.supernet} are for {training.task}"
    is_own = options.data is None or absolute_data_name(options.data) == training.data.name
    if not is_own or training.labelled:
        return None
    return "divergence", f"the images of {choice.supernet} have no classes"


def newest_supernet(space: str | None, *, runs: Path) -> Path | None:
    """Return the run under a folder that trained the supernet of a space, or of any, last and to the end."""
    found = []
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        if (folder / SUPERNET).is_file() and (folder / MANIFEST).is_file():
            try:
                manifest = Run.open(folder).manifest
            except HwnasError:  # a broken manifest keeps no other run from being found
                continue
            if "recipe" in manifest.config and space in (None, manifest.config.get("space")):
                found.append((manifest.created_utc, folder.stat().st_mtime, folder))
    return max(found)[2] if found else None


def resolve_metrics(
    criteria: Criteria,
    *,
    space: str,
    device: str | None,
    predictors: Path | None,
    known: Collection[str] = (),
    machine: Machine | None = None,
) -> ResolvedMetrics:
    """Choose a predictor for each device metric.

    Args:
        criteria: Objectives and constraints; what their metrics leave out is that of the chosen predictor.
        space: The space whose networks are predicted.
        device: The device of metrics that name none; None: this machine's.
        predictors: The only folder to look in; None: all that are known.
        known: Complete metrics that need no predictor.
        machine: This machine, for tests.
    """
    chosen: dict[Metric, ChosenPredictor] = {}
    missing: dict[Metric, HwnasError] = {}
    with_device: dict[Metric, Metric] = {}
    for metric in criteria.device_metrics:
        if str(metric) in known:
            continue
        machine = machine or detect()
        wanted = metric.with_device(resolve(metric.deployment.device or device or "auto", machine=machine))
        with_device[metric] = wanted
        try:
            chosen[wanted] = choose_predictor(wanted, space=space, predictors=predictors, machine=machine)
        except (InputError, MissingError) as error:
            missing[wanted] = error
    return ResolvedMetrics(criteria=criteria.with_metrics(with_device), chosen=chosen, missing=missing)


def fit_missing(
    resolved: ResolvedMetrics,
    *,
    space: str,
    profiles: Path | None,
    predictors: Path | None,
    out: Path,
    reporter: Reporter,
    fitted: set[tuple[str, str]],
    machine: Machine | None = None,
) -> ResolvedMetrics:
    """Fit predictors to profiles of the space where there are such profiles, and no predictor of the space.

    A predictor for networks of any kind is used if there are too few measurements for a better one.

    Where the batch was not profiled, but a smaller and a larger one have predictors, it is interpolated between them.

    Args:
        resolved: What `resolve_metrics` found.
        space: The space whose networks are predicted.
        profiles: A folder of profiles to look in as well.
        predictors: The only folder of predictors to interpolate between; None: all that are known.
        out: The folder of predictors that new ones are written to.
        reporter: Receives the progress of fitting.
        fitted: Metrics and profiles that predictors in `out` were fitted to for this search; extended.
        machine: This machine, for tests.
    """
    chosen, missing, notes = dict(resolved.chosen), dict(resolved.missing), list(resolved.notes)
    for metric in (*resolved.missing, *resolved.chosen):
        is_needed = metric in missing or chosen[metric].predictor.card.space is None
        if not is_needed and not fitted:  # before any folder of profiles is read
            continue
        measured, names = _profiles_of(metric, space, profiles)
        is_fitted = fitted.issuperset((metric.name, name) for name in names)
        if not names or not (is_needed or is_fitted):
            continue
        if is_needed:
            try:
                if not is_fitted:
                    _fit(metric, names, space=measured, profiles=profiles, out=out, reporter=reporter)
                chosen[metric] = choose_predictor(metric, space=space, predictors=out, machine=machine)
            except InputError as error:
                if metric in missing:
                    raise
                notes.append(f"no predictor of {metric} for {space} could be fitted: {error.message}")
                continue
            fitted.update((metric.name, name) for name in names)
            missing.pop(metric, None)
        notes.append(f"{metric}: there was no predictor for {space}, fitted one to {', '.join(names)}")
    for metric, why in tuple(missing.items()):
        if not isinstance(why, NoPredictorError):  # a damaged predictor is not replaced by a less accurate one
            continue
        between = choose_interpolated(metric, space=space, predictors=predictors, machine=machine)
        if between is not None:
            chosen[metric] = save_interpolated(between, out)
            del missing[metric]
    return replace(resolved, chosen=chosen, missing=missing, notes=tuple(notes))


def use_unmeasured(
    resolved: ResolvedMetrics, *, profiles: Path | None, out: Path, machine: Machine | None = None
) -> ResolvedMetrics:
    """Make the predictors that are still missing from measurements of other devices; damaged ones are not replaced.

    Args:
        resolved: What `resolve_metrics` and `fit_missing` found.
        profiles: The only folder of profiles and tables to use; None: the default search path.
        out: The folder of predictors below which they are written.
        machine: This machine, for tests.
    """
    from hwnas.pipeline.predictors.unmeasured import choose_unmeasured, save_unmeasured

    chosen, missing = dict(resolved.chosen), {}
    for metric, error in resolved.missing.items():
        if not isinstance(error, NoPredictorError | MissingError):
            missing[metric] = error
            continue
        try:
            chosen[metric] = save_unmeasured(choose_unmeasured(metric, profiles=profiles, machine=machine), out)
        except InputError as unmeasured:
            message = f"{error.message}; and from other devices: {unmeasured.message}"
            missing[metric] = type(error)(message, got=error.got, known=unmeasured.known, hint=unmeasured.hint)
    return replace(resolved, chosen=chosen, missing=missing)


def _profiles_of(metric: Metric, space: str, profiles: Path | None) -> tuple[str, list[str]]:
    """Return the profiles that a predictor of a metric for a space can be fitted to, and the space that they are of.

    That is the space itself, or without such profiles the space that it is a level of.
    """
    entries = profile_entries(data_search_path(PROFILES, profiles))
    fitting = [entry for entry in entries if metric.deployment.matches(entry.manifest.setting.deployment)]
    for measured in predicted_as(space):
        of_space = [entry for entry in fitting if entry.manifest.space == measured]
        own = [entry for entry in of_space if entry.origin == "own"]
        if of_space:
            return measured, [entry.name for entry in own or of_space]
    return space, []


def _fit(
    metric: Metric, names: Sequence[str], *, space: str, profiles: Path | None, out: Path, reporter: Reporter
) -> None:
    from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors

    reporter.message(f"no predictor of {metric} for {space} yet: fitting one to {', '.join(names)}")
    options = FitOptions(deployment=metric.deployment, space=space, metrics=(metric.name,), profiles=profiles, out=out)
    fit_predictors(options, reporter=reporter)


def combine_errors(errors: Sequence[HwnasError]) -> HwnasError:
    """Return one error for everything that is missing, with the commands that make it."""
    if len(errors) == 1:
        return errors[0]
    kind = MissingError if all(isinstance(item, MissingError) for item in errors) else InputError
    messages = "; ".join(dict.fromkeys(item.message for item in errors))
    return kind(
        "the search needs supernets or predictors that do not exist",
        got=messages,
        hint="; ".join(dict.fromkeys(item.hint for item in errors if item.hint)),
    )
