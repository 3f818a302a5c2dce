"""`hwnas fit`: predictors from whatever was measured on a device, each with a card that says how good it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwnas.data_paths import PREDICTORS, PROFILES, DataPaths, data_search_path
from hwnas.devices import Machine, resolve
from hwnas.errors import InputError, unknown
from hwnas.metrics import MEASURED_METRICS, UNSPECIFIED, Deployment, MeasuredMetric
from hwnas.pipeline.predictors.dataset import MeasuredNetworks, measured_profile
from hwnas.pipeline.predictors.grouping import LeftOut, grouped
from hwnas.pipeline.predictors.published_tables import measured_table
from hwnas.pipeline.predictors.transfer_sources import find_sources
from hwnas.predict.card import Card
from hwnas.predict.fit import as_throughput, fit_predictor
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.lookup import predictor_folder
from hwnas.predict.predictor import Predictor, save_predictor
from hwnas.predict.transfer_fit import transfer_predictor
from hwnas.profile.lookup import ProfileEntry, TableEntry, profile_entries, table_entries
from hwnas.progress import NullReporter, Reporter


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of a fit; None selects everything that was measured on the device."""

    deployment: Deployment = UNSPECIFIED
    """Without a device, this machine's."""
    space: str | None = None
    metrics: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Devices whose predictors help where few networks were measured."""
    samples: int | None = None
    """So many networks of each profile, the first that were measured."""
    mixed: bool = False
    """Allow profiles of different environments to be fitted together."""
    profiles: Path | None = None
    predictors: Path | None = None
    """Folder of the predictors of `sources`."""
    out: Path = Path(PREDICTORS)

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in MEASURED_METRICS:
                raise unknown("metric", name, MEASURED_METRICS, hint="--metric {}")
        if self.samples is not None and self.samples < 1:
            raise InputError("--samples must be at least 1", got=self.samples)


@dataclass(frozen=True, kw_only=True)
class FittedPredictor:
    """A predictor that was written."""

    fitted_to: str
    """The profile, or what was put together."""
    path: Path
    card: Card


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """Result of a fit: predictors written and profiles left out."""

    device: str
    fitted: tuple[FittedPredictor, ...]
    left_out: tuple[LeftOut, ...]


def fit_predictors(
    options: FitOptions, *, reporter: Reporter | None = None, machine: Machine | None = None
) -> FitReport:
    """Fit a predictor for every metric of every profile of a device, and one for all networks of each setting.

    One profile that cannot be fitted keeps no other from being fitted; if none can, the first one's error is raised.
    """
    reporter = reporter or NullReporter()
    device = resolve(options.deployment.device or "auto", machine=machine)
    options = replace(options, deployment=replace(options.deployment, device=device))
    groups = grouped(_measured(device, options), space=options.space, mixed=options.mixed)
    fitted: list[FittedPredictor] = []
    left_out, errors = list(groups.left_out), []
    for networks in groups.fitted:
        for found in _fitted(_first(networks, options.samples), options, reporter):
            if isinstance(found, FittedPredictor):
                fitted.append(found)
            else:
                errors.append(found.error)
                left_out.append(LeftOut(name=found.name, reason=_reason(found.error)))
                reporter.message(f"{found.name}: {_reason(found.error)}")
    if not fitted:
        raise errors[0] if errors else _nothing_to_fit(device, options)
    return FitReport(device=device, fitted=tuple(fitted), left_out=tuple(left_out))


def _measured(device: str, options: FitOptions) -> list[MeasuredNetworks]:
    """The profiles and published tables of the device that the options leave."""
    places = data_search_path(PROFILES, options.profiles)
    there = [entry for entry in profile_entries(places) if entry.manifest.setting.device == device]
    tables = table_entries(places, device=device)
    if not there and not tables:
        raise _no_profile(device, places)
    wanted = [entry for entry in there if _is_wanted(entry, options)]
    published = [entry for entry in tables if _is_wanted_table(entry, options)]
    if not wanted and not published:
        names = [*(entry.name for entry in there), *(table.name for table in tables)]
        raise _nothing_to_fit(device, options, names)
    return [*map(measured_profile, wanted), *map(measured_table, published)]


def _is_wanted(entry: ProfileEntry, options: FitOptions) -> bool:
    return options.space in (None, entry.manifest.space) and options.deployment.matches(
        entry.manifest.setting.deployment
    )


def _is_wanted_table(entry: TableEntry, options: FitOptions) -> bool:
    """Return True where neither a space nor one batch is asked for: a table has neither."""
    deployment = options.deployment
    return options.space is None and deployment.batch is None and deployment.matches(entry.manifest.deployment)


def _no_profile(device: str, places: DataPaths) -> InputError:
    known = {entry.manifest.setting.device for entry in profile_entries(places)}
    known |= {str(entry.manifest.deployment.device) for entry in table_entries(places)}
    hint = f"hwnas profile --device {device}"
    return InputError(f"there is no profile of {device}", got=device, known=sorted(known), hint=hint)


@dataclass(frozen=True, kw_only=True)
class _Failed:
    name: str
    error: InputError


def _fitted(networks: MeasuredNetworks, options: FitOptions, reporter: Reporter) -> Iterator[FittedPredictor | _Failed]:
    """A predictor for each metric, or why there is none; throughput is the latency told the other way round."""
    wanted = [name for name in networks.metrics if not options.metrics or name in options.metrics]
    if not wanted:
        error = InputError("no figure of these metrics was measured", got=networks.name, known=networks.metrics)
        yield _Failed(name=networks.name, error=error)
    timed: Predictor | None = None
    for name in wanted:
        try:
            predictor = _predictor(networks, name, options, reporter, timed=timed)
        except InputError as error:
            yield _Failed(name=f"{networks.name}: {name}", error=error)
            continue
        timed = predictor if name == "latency_ms" else timed
        card = predictor.card
        path = options.out / predictor_folder(card.metric, space=card.space)
        yield FittedPredictor(fitted_to=networks.name, path=path, card=save_predictor(predictor, path).card)


def _predictor(
    networks: MeasuredNetworks,
    name: MeasuredMetric,
    options: FitOptions,
    reporter: Reporter,
    *,
    timed: Predictor | None,
) -> Predictor:
    if name == "throughput" and timed is not None:
        observed = networks.observations(name)
        return as_throughput(timed, batches=observed.batches, noise_floor=observed.noise_floor)
    reporter.message(f"{networks.name}: fitting {name} to {len(networks)} rows")
    return _fit_one(networks, name, options, reporter)


def _fit_one(networks: MeasuredNetworks, name: MeasuredMetric, options: FitOptions, reporter: Reporter) -> Predictor:
    observed = networks.observations(name)
    if options.sources:
        found = find_sources(networks, name, options.sources, predictors=options.predictors)
        leaning = transfer_predictor(
            observed,
            sources=found.sources,
            answers=found.answers,
            unlike=found.unlike,
            allow_mixed=options.mixed,
        )
        if leaning is not None:
            return leaning
        reporter.message(
            f"{networks.name}: {name}: {', '.join(found.sources)} did not help, so it is fitted from scratch"
        )
    return fit_predictor(observed, allow_mixed=options.mixed)


def _first(networks: MeasuredNetworks, count: int | None) -> MeasuredNetworks:
    """The rows of the first so many different networks that were measured."""
    if count is None:
        return networks
    labels = group_equal_networks(networks.features)
    order = np.arange(len(networks)) if networks.times is None else np.argsort(networks.times, kind="stable")
    chosen = set(list(dict.fromkeys(labels[row] for row in order))[:count])
    return networks.take(np.flatnonzero([label in chosen for label in labels]))


def _reason(error: InputError) -> str:
    return error.message if error.got is None else f"{error.message}, got {error.got}"


def _nothing_to_fit(device: str, options: FitOptions, there: Sequence[str] = ()) -> InputError:
    deployment = options.deployment
    asked = {
        "space": options.space,
        "runtime": deployment.runtime,
        "precision": deployment.precision,
        "batch": deployment.batch,
        "threads": deployment.threads,
    }
    got = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
    return InputError(f"no profile of {device} is like this", got=got or None, known=there)
