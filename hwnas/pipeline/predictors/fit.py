"""`hwnas fit`: fit predictors to the profiles and published tables of a device."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np

from hwnas.arguments import checked_arguments
from hwnas.config import Between, require_valid
from hwnas.data_paths import PREDICTORS, PROFILES, DataPaths, data_search_path
from hwnas.devices import Machine, misspelled, resolve
from hwnas.errors import InputError, unknown
from hwnas.files import file_errors, path_within, printable
from hwnas.metrics import MEASURED_METRICS, UNSPECIFIED, Deployment, MeasuredMetric, Metric
from hwnas.pipeline.predictors.grouping import LeftOut, group_profiles
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, measured_profile, measured_table
from hwnas.pipeline.predictors.unmeasured import calibrate_pool, why_not_pooled
from hwnas.predict.active import representative
from hwnas.predict.arrays import Numbers
from hwnas.predict.card import Card
from hwnas.predict.fit import as_throughput, fit_predictor, transfer_predictor
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.lookup import predictor_folder
from hwnas.predict.predictor import Predictor, Source
from hwnas.predict.saving import save_predictor
from hwnas.predict.selector import ChosenPredictor, NoPredictorError, choose_predictor
from hwnas.profile.lookup import profile_entries, table_entries
from hwnas.progress import NullReporter, Reporter


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of a fit; None selects everything that was measured on the device."""

    deployment: Deployment = UNSPECIFIED
    """By default the device of this machine."""
    space: str | None = None
    metrics: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Devices whose predictors are transferred, for devices with few measured networks, or other deployments of this
    one or another, such as `cpu/onnxruntime/fp32`; without a device it is the same one."""
    samples: Annotated[int, Between(1, 1_000_000_000)] | None = None
    """Number of networks to fit: of a profile those measured first, of a table usual ones that differ; None: all."""
    mixed: bool = False
    """Allow profiles of different environments to be fitted together."""
    profiles: Path | None = None
    predictors: Path | None = None
    """Folder of the predictors of `sources`; None: the default search path."""
    out: Path = Path(PREDICTORS)

    def __post_init__(self) -> None:
        require_valid(self)
        for name in self.metrics:
            if name not in MEASURED_METRICS:
                raise unknown("metric", name, MEASURED_METRICS, hint="--metric {}")


@dataclass(frozen=True, kw_only=True)
class FittedPredictor:
    """A predictor that was fitted and written."""

    fitted_to: str
    """The profile, or the name of the profiles that were pooled."""
    path: Path
    card: Card


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """Result of a fit: predictors written and profiles left out."""

    device: str
    fitted: tuple[FittedPredictor, ...]
    left_out: tuple[LeftOut, ...]


@checked_arguments
def fit_predictors(
    options: FitOptions, *, reporter: Reporter | None = None, machine: Machine | None = None
) -> FitReport:
    """Fit a predictor for every metric of every profile of a device, and one for all networks of each setting.

    Profiles that cannot be fitted are reported as left out.

    Args:
        options: Profiles and metrics to fit, and the folder to write to.
        reporter: Receives progress messages.
        machine: The machine whose device is used by default; None: this one.

    Raises:
        InputError: There is no profile, or none could be fitted.
    """
    reporter = reporter or NullReporter()
    device = resolve(options.deployment.device or "auto", machine=machine)
    options = replace(options, deployment=replace(options.deployment, device=device))
    _require_writable(options.out)
    groups = group_profiles(_load_measured(device, options, reporter), space=options.space, mixed=options.mixed)
    fitted: list[FittedPredictor] = []
    left_out, errors = list(groups.left_out), []
    for networks in groups.to_fit:
        for result in _fit_metrics(_first(networks, options.samples), options, reporter):
            if isinstance(result, FittedPredictor):
                fitted.append(result)
                continue
            error = result.error
            reason = error.message if error.got is None else f"{error.message}, got {error.got}"
            errors.append(error)
            left_out.append(LeftOut(name=result.name, reason=reason))
            reporter.message(f"{result.name}: {reason}")
    if not fitted:
        raise errors[0] if errors else _nothing_to_fit(device, options, left_out=left_out)
    return FitReport(device=device, fitted=tuple(fitted), left_out=tuple(left_out))


def _require_writable(folder: Path) -> None:
    """Require that a folder can be made or written, before anything is fitted."""
    with file_errors(folder, "written"):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            got = f"{printable(existing)} is a file"
            raise InputError(f"{printable(folder)} cannot be written", got=got, hint="another folder with --out")
        # Permissions alone do not show that a disk is read-only.
        with TemporaryDirectory(prefix=".hwnas-", dir=existing):
            pass


def _load_measured(device: str, options: FitOptions, reporter: Reporter) -> list[MeasuredNetworks]:
    """Read the profiles and tables of the device that the options select: the user's own, if there are any."""
    paths = data_search_path(PROFILES, options.profiles)
    profiles = [entry for entry in profile_entries(paths) if entry.manifest.setting.device == device]
    tables = table_entries(paths, device=device)
    if not profiles and not tables:
        raise _no_profile(device, paths)
    wanted = [
        entry
        for entry in profiles
        if options.space in (None, entry.manifest.space)
        and options.deployment.matches(entry.manifest.setting.deployment)
    ]
    # Tables have neither a space nor a single batch size.
    takes_tables = options.space is None and options.deployment.batch is None
    published = [entry for entry in tables if takes_tables and options.deployment.matches(entry.manifest.deployment)]
    if not wanted and not published:
        names = [*(entry.name for entry in profiles), *(table.name for table in tables)]
        raise _nothing_to_fit(device, options, names)
    own = [entry for entry in wanted if entry.origin == "own"]
    own_tables = [table for table in published if table.origin == "own"]
    num_shipped = len(wanted) + len(published) - len(own) - len(own_tables)
    if (own or own_tables) and num_shipped and not options.mixed:
        fitted = ", ".join([*(entry.name for entry in own), *(table.name for table in own_tables)])
        text = f"fitting your own: {fitted}; {num_shipped} that ship with hwnas are left out (--mixed takes them)"
        reporter.message(text)
        wanted, published = own, own_tables
    profiles_of = (measured_profile(entry, num_networks=options.samples) for entry in wanted)
    return [*profiles_of, *map(measured_table, published)]


def _no_profile(device: str, paths: DataPaths) -> InputError:
    known = {entry.manifest.setting.device for entry in profile_entries(paths)}
    known |= {str(entry.manifest.deployment.device) for entry in table_entries(paths)}
    near = misspelled(device, known)
    return InputError(
        f"there is no profile of {device}",
        got=device,
        known=sorted(known),
        hint=f"hwnas profile --device {device}" if near is None else f"hwnas fit --device {near}",
        correction=None if near is None else (device, near),
    )


@dataclass(frozen=True, kw_only=True)
class _Failed:
    name: str
    error: InputError


def _fit_metrics(
    networks: MeasuredNetworks, options: FitOptions, reporter: Reporter
) -> Iterator[FittedPredictor | _Failed]:
    """Fit and write a predictor of each metric; throughput is the latency in another unit."""
    wanted = [name for name in networks.metrics if not options.metrics or name in options.metrics]
    if not wanted:
        error = InputError("none of these metrics was measured", got=networks.name, known=networks.metrics)
        yield _Failed(name=networks.name, error=error)
    timed: Predictor | None = None
    for name in wanted:
        try:
            if name == "throughput" and timed is not None:
                observed = networks.observations(name)
                predictor = as_throughput(timed, batches=observed.batches, noise_floor=observed.noise_floor)
            else:
                reporter.message(f"{networks.name}: fitting {name} to {len(networks)} rows")
                predictor = _fit_metric(networks, name, options, reporter)
        except (InputError, np.linalg.LinAlgError) as error:
            if not isinstance(error, InputError):
                error = InputError("measured values must be similar enough to be fitted", got=error)
            yield _Failed(name=f"{networks.name}: {name}", error=error)
            continue
        timed = predictor if name == "latency_ms" else timed
        card = predictor.card
        path = path_within(options.out, predictor_folder(card.metric, space=card.space))
        yield FittedPredictor(fitted_to=networks.name, path=path, card=save_predictor(predictor, path).card)


def _fit_metric(networks: MeasuredNetworks, name: MeasuredMetric, options: FitOptions, reporter: Reporter) -> Predictor:
    sources = _deployments(networks, options.sources)
    devices = [source.device for source in sources if source.device and source == Deployment(device=source.device)]
    if len(devices) == len(sources):
        calibrated = calibrate_pool(networks, name, devices=devices, profiles=options.profiles)
        if calibrated is not None:
            reporter.message(f"{networks.name}: {name}: {calibrated.card.notes[-1]}")
            return calibrated
        note = why_not_pooled(networks, name, profiles=options.profiles)
        if note is not None and not sources:
            reporter.message(f"{networks.name}: {name}: {note}")
    observed = networks.observations(name)
    if options.sources:
        found = find_sources(networks, name, options.sources, predictors=options.predictors)
        transferred = transfer_predictor(
            observed,
            sources=found.sources,
            predictions=found.predictions,
            unlike=found.unlike,
            allow_mixed=options.mixed,
        )
        if transferred is not None:
            return transferred
        reporter.message(
            f"{networks.name}: {name}: {', '.join(found.sources)} did not help, so it is fitted from scratch"
        )
    return fit_predictor(observed, allow_mixed=options.mixed)


def _first(networks: MeasuredNetworks, count: int | None) -> MeasuredNetworks:
    """Return the rows of `count` different networks: the first measured; of a table, usual ones that differ."""
    if count is None:
        return networks
    # `measured_profile` keeps somewhat more networks of each profile; pooled profiles and tables have all of theirs.
    labels = group_equal_networks(networks.features)
    if networks.times is None and not networks.subjects and count < len(set(labels)):
        firsts = np.array([labels.index(label) for label in dict.fromkeys(labels)])
        designed = firsts[representative(networks.features.take(firsts), count=count)]
        return networks.take(np.flatnonzero(np.isin(labels, [labels[row] for row in designed])))
    order = np.arange(len(networks)) if networks.times is None else np.argsort(networks.times, kind="stable")
    chosen = set(list(dict.fromkeys(labels[row] for row in order))[:count])
    return networks.take(np.flatnonzero([label in chosen for label in labels]))


def _nothing_to_fit(
    device: str, options: FitOptions, known: Sequence[str] = (), *, left_out: Sequence[LeftOut] = ()
) -> InputError:
    if left_out:
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in left_out)
        return InputError(f"no profile of {device} can be fitted", got=reasons, hint="measure more networks")
    deployment = options.deployment
    requested = {
        "space": options.space,
        "runtime": deployment.runtime,
        "precision": deployment.precision,
        "batch": deployment.batch,
        "threads": deployment.threads,
    }
    got = ", ".join(f"{name} {value}" for name, value in requested.items() if value is not None)
    return InputError(f"no profile of {device} matches these options", got=got or None, known=known)


@dataclass(frozen=True, kw_only=True)
class TransferSources:
    """Models of other devices or deployments, and their predictions of the measured networks, by name."""

    sources: Mapping[str, Source]
    predictions: Mapping[str, Numbers]
    unlike: frozenset[str]
    """Sources with a predictor of another runtime or kind of device."""


def find_sources(
    networks: MeasuredNetworks, metric: MeasuredMetric, sources: Sequence[str], *, predictors: Path | None = None
) -> TransferSources:
    """Choose a predictor of each source for these networks, of the same runtime unless it names another.

    Sources are named by the deployments of the chosen predictors.

    Args:
        networks: The measured networks.
        metric: The metric to fit.
        sources: Devices, or deployments such as `cpu/onnxruntime/fp32`; without a device that of the networks.
        predictors: Folder of the predictors of the sources; None: the default search path.

    Raises:
        InputError: A source is what was measured, or there is no predictor of it.
    """
    wanted = [Metric(name=metric, deployment=source) for source in _deployments(networks, sources)]
    chosen = {str(found.metric.deployment): found for found in (_choose(networks, item, predictors) for item in wanted)}
    made = {name: _source(predictor) for name, predictor in chosen.items()}
    batch = networks.conditions.batch
    return TransferSources(
        sources=made,
        predictions={name: source.predict(networks.features_for, batch=batch) for name, source in made.items()},
        unlike=frozenset(
            name
            for name, source in chosen.items()
            if source.metric.deployment.runtime != networks.deployment.runtime
            or source.predictor.conditions.kind != networks.device.kind
        ),
    )


def _deployments(networks: MeasuredNetworks, sources: Sequence[str]) -> list[Deployment]:
    """Parse the sources; one of the networks' own device must differ from their deployment in a part that it names."""
    parsed = []
    for text in sources:
        source = Deployment.parse(text)
        source = replace(source, device=networks.device.name if source.device is None else resolve(source.device))
        if source.matches(networks.deployment):
            hint = "--from h200, or --from cpu/onnxruntime/fp32"
            raise InputError(
                "--from must name another device, or another runtime, precision or batch", got=text, hint=hint
            )
        parsed.append(source)
    return parsed


def _source(chosen: ChosenPredictor) -> Source:
    predictor = chosen.predictor
    if predictor.sources:
        raise InputError(f"{chosen.path} cannot be a source, because it was transferred from other devices itself")
    batch = predictor.card.metric.deployment.fixed_batch
    return Source(conditions=predictor.conditions, batch=batch, model=predictor.model)


def _choose(networks: MeasuredNetworks, metric: Metric, predictors: Path | None) -> ChosenPredictor:
    # Of its own device what is not named is as it was measured; of another one the runtime is.
    own = networks.deployment
    if metric.deployment.device == own.device:
        return choose_predictor(metric.completed(own), space=networks.space, predictors=predictors)
    try:
        same = metric.completed(Deployment(runtime=own.runtime))
        return choose_predictor(same, space=networks.space, predictors=predictors)
    except NoPredictorError:  # another runtime may help too; leave-one-out errors decide
        return choose_predictor(metric, space=networks.space, predictors=predictors)
