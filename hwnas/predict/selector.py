"""Choice of the predictor of a metric: unspecified parts are filled in and reported."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hwnas.arguments import checked_arguments
from hwnas.data_paths import PREDICTORS, DataPaths, Origin, data_search_path
from hwnas.devices import Machine, misspelled, resolve
from hwnas.errors import HwnasError, InputError, MissingError, unknown
from hwnas.files import path_within, printable
from hwnas.metrics import PRECISION_PREFERENCE, RUNTIMES, TIMED_METRICS, UNSPECIFIED, Deployment, Metric, parse_metric
from hwnas.predict.interpolated import interpolate
from hwnas.predict.lookup import (
    ANY,
    PredictorEntry,
    UnreadablePredictor,
    find_predictors,
    predictor_devices,
    predictor_folder,
)
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from hwnas.space import SPACES
from hwnas.space.glit import with_both_levels

INTERPOLATED_FOLDER = "interpolated"
"""Subfolder of a folder of predictors for those of batches that were not measured."""

_log = logging.getLogger(__name__)


class NoPredictorError(InputError):
    """No predictor of the device fits a metric."""


@dataclass(frozen=True, kw_only=True)
class ChosenPredictor:
    """The chosen predictor, and the metric with its unspecified parts filled in."""

    metric: Metric
    """Device, runtime, precision and batch are those of the predictor; threads are stated only if requested."""
    predictor: Predictor
    path: Path
    origin: Origin
    note: str
    """One sentence about the predictor and what was filled in."""


def predicted_as(space: str | None) -> tuple[str, ...]:
    """Return the spaces whose predictors fit the networks of a space, best first; none for networks of any kind."""
    return () if space is None else tuple(dict.fromkeys((space, with_both_levels(space))))


@checked_arguments
def find_predictor(
    metric: str,
    *,
    space: str | None = None,
    predictors: Path | None = None,
) -> Predictor:
    """Return the predictor of a metric, as a search would choose it.

    If a smaller and a larger batch than the named one were measured, the predictor is interpolated between theirs.

    Args:
        metric: `"latency_ms@rtx4090"` or, in full, `"throughput@h200/torch-graph/bf16/b64"`; without a device the
            one of this machine is meant.
        space: The space of the networks; by default a predictor for networks of any kind.
        predictors: A folder of predictors; by default `./predictors` and those that ship with hwnas.

    Raises:
        MissingError: There are no predictors for the device.
        InputError: None of them fits the metric and the space.
    """
    if space is not None and space not in SPACES:
        raise unknown("space", space, SPACES, hint='space="{}"')
    parsed = parse_metric(metric)
    try:
        return choose_predictor(parsed, space=space, predictors=predictors).predictor
    except NoPredictorError as error:
        between = choose_interpolated(parsed, space=space, predictors=predictors)
        if between is None:
            raise error
        return between.predictor


def choose_predictor(
    metric: Metric,
    *,
    space: str | None,
    predictors: Path | None = None,
    machine: Machine | None = None,
) -> ChosenPredictor:
    """Choose the predictor of a metric on its device, for networks of a space or, without one, for any.

    A predictor of the space is preferred to one of the space that it is a level of, and that to one for all networks;
    then the best runtime, the narrowest precision, the smallest batch (of throughput the largest) and the fewest
    threads. A predictor with a damaged card is passed over with a warning, unless the name of its folder shows that it
    may be the one to choose.

    Args:
        metric: The metric; unspecified parts of its deployment are filled in.
        space: Space of the networks; None: networks of any kind.
        predictors: The only folder to look in; None: the default search path.
        machine: The machine whose device is used by default; None: this one.

    Raises:
        MissingError: There are no predictors for the device.
        NoPredictorError: None of them fits the metric and the space.
        InputError: The predictor to choose is damaged.
    """
    device = resolve(metric.deployment.device or "auto", machine=machine)
    paths = data_search_path(PREDICTORS, predictors)
    found, unreadable = find_predictors(paths, device=device, metric=metric.name)
    spaces = predicted_as(space)
    wanted = metric.with_device(device)
    fitting = [entry for entry in found if entry.space in (None, *spaces) and wanted.matches(entry.card.metric)]
    best = min(fitting, key=lambda entry: _rank(entry, metric, spaces), default=None)
    for predictor in unreadable:
        # It is never silently passed over for a predictor that it comes before.
        if _could_fit(predictor, wanted, space) and (
            best is None or _rank(predictor, metric, spaces) <= _rank(best, metric, spaces)
        ):
            raise predictor.error
        _log.warning("%s is passed over: %s", printable(predictor.path), predictor.error.message)
    if best is None:
        raise _no_predictor(metric, device, space, paths)
    _log.debug("%s: %d of %d predictors fit, chosen %s", metric, len(fitting), len(found), best.path)
    return ChosenPredictor(
        metric=_completed(best, metric),
        predictor=Predictor.load(best.path),
        path=best.path,
        origin=best.origin,
        note=_note(best, metric, fitting),
    )


def choose_interpolated(
    metric: Metric,
    *,
    space: str | None,
    predictors: Path | None = None,
    machine: Machine | None = None,
) -> ChosenPredictor | None:
    """Make a predictor for a batch that was not measured, from those of the nearest smaller and larger ones.

    Args:
        metric: Latency or throughput with a batch; other unspecified parts of its deployment are filled in.
        space: Space of the networks; None: networks of any kind.
        predictors: The only folder to look in; None: the default search path.
        machine: The machine whose device is used by default; None: this one.

    Returns:
        The predictor, in memory alone, whose note and card say that the batch was not measured; None if the metric
        names no batch, or no deployment has predictors of both a smaller and a larger one, the nearest of which were
        not made from other predictors themselves.

    Raises:
        InputError: One of the predictors is damaged.
    """
    device = resolve(metric.deployment.device or "auto", machine=machine)
    batch = metric.deployment.fixed_batch
    if batch is None or metric.name not in TIMED_METRICS:
        return None
    found, _ = find_predictors(data_search_path(PREDICTORS, predictors), device=device, metric=metric.name)
    wanted = replace(metric, deployment=replace(metric.deployment, device=device, batch=None))
    spaces = predicted_as(space)
    fitting = [entry for entry in found if entry.space in (None, *spaces) and wanted.matches(entry.card.metric)]
    by_setting: dict[tuple[str | None, Deployment], list[PredictorEntry]] = {}
    for entry in sorted(fitting, key=lambda entry: _rank(entry, wanted, spaces)):
        if entry.deployment.fixed_batch is not None:
            by_setting.setdefault((entry.space, replace(entry.deployment, batch=None)), []).append(entry)
    for entries in by_setting.values():
        by_batch = {entry.deployment.fixed_batch or 0: entry for entry in reversed(entries)}
        smaller, larger = [key for key in by_batch if key < batch], [key for key in by_batch if key > batch]
        if smaller and larger:
            lower, upper = by_batch[max(smaller)], by_batch[min(larger)]
            pair = Predictor.load(lower.path), Predictor.load(upper.path)
            if any(measured.sources for measured in pair):
                continue
            predictor = interpolate(*pair, batch=batch)
            entry = replace(lower, card=predictor.card)
            return ChosenPredictor(
                metric=_completed(entry, metric),
                predictor=predictor,
                path=Path(INTERPOLATED_FOLDER, predictor_folder(predictor.card.metric, space=entry.space)),
                origin=lower.origin,
                note=f"{_note(entry, metric, fitting)}; {predictor.card.notes[0]}",
            )
    return None


def save_interpolated(chosen: ChosenPredictor, out: Path) -> ChosenPredictor:
    """Write such a predictor below a folder of predictors, where only its path finds it."""
    card = chosen.predictor.card
    folder = path_within(out, INTERPOLATED_FOLDER) / predictor_folder(card.metric, space=card.space)
    return replace(chosen, predictor=save_predictor(chosen.predictor, folder), path=folder)


def _could_fit(predictor: UnreadablePredictor, wanted: Metric, space: str | None) -> bool:
    """Return True if the name of a folder does not exclude that its predictor fits."""
    deployment = predictor.deployment
    return deployment == UNSPECIFIED or (
        predictor.space in (None, *predicted_as(space)) and wanted.deployment.matches(deployment)
    )


def _rank(predictor: PredictorEntry | UnreadablePredictor, metric: Metric, spaces: Sequence[str]) -> tuple[int, ...]:
    """Return the sort key of predictors; one whose folder's name says nothing comes before those of any space."""
    deployment = predictor.deployment
    batch = deployment.fixed_batch or 0
    return (
        0 if deployment == UNSPECIFIED else 2 if predictor.space is None else _rank_in(spaces, predictor.space),
        _rank_in(RUNTIMES.names(), deployment.runtime),
        _rank_in(PRECISION_PREFERENCE, deployment.precision),
        int(deployment.fixed_batch is None),
        -batch if metric.name == "throughput" else batch,
        deployment.threads or 0,
    )


def _rank_in(order: Sequence[str], name: str | None) -> int:
    return order.index(name) if name in order else len(order)


def _completed(entry: PredictorEntry, metric: Metric) -> Metric:
    """Return the metric with the deployment of its predictor.

    Its text names a column of a study, so threads that were not specified stay out of it.
    """
    deployment, wanted = entry.card.metric.deployment, metric.deployment
    batch = deployment.fixed_batch or wanted.fixed_batch or entry.card.data.usual_batch
    return replace(metric, deployment=replace(deployment, batch=batch, threads=wanted.threads))


def _note(entry: PredictorEntry, metric: Metric, fitting: Sequence[PredictorEntry]) -> str:
    """Describe the chosen predictor and the reasons for parts that were not specified."""
    complete, card = _completed(entry, metric), entry.card
    wanted, found = metric.deployment, complete.deployment
    of = f"{card.data.num_networks} networks of {card.space or 'all kinds'}"
    filled = [
        text
        for value, text in (
            (wanted.runtime, f"{found.runtime} is the best runtime with a predictor"),
            (wanted.precision, f"{found.precision} is the narrowest precision"),
            (wanted.batch, _batch_reason(entry, complete)),
        )
        if value is None
    ]
    own = card.metric.deployment
    alike = [other for other in fitting if other.card.space == card.space]
    threads = {
        other.card.metric.deployment.threads
        for other in alike
        if other.card.metric.deployment == replace(own, threads=other.card.metric.deployment.threads)
    }
    if len(threads) > 1 and own.threads is not None:
        filled.append(f"{own.threads} is the fewest threads")
    return f"{complete}, fitted to {of}" + (f" ({'; '.join(filled)})" if filled else "")


def _batch_reason(entry: PredictorEntry, complete: Metric) -> str:
    batch = complete.deployment.batch
    if entry.card.metric.deployment.fixed_batch is None:
        return f"batch {batch} is the most frequent one measured"
    return f"batch {batch} is the {'largest' if complete.name == 'throughput' else 'smallest'} one"


def _no_predictor(metric: Metric, device: str, space: str | None, paths: DataPaths) -> HwnasError:
    """Return the error that no predictor of the device fits, or that there is none."""
    entries, _ = find_predictors(paths, device=device)
    if not entries:
        message, known = f"there is no predictor for {device}", predictor_devices(paths)
        near = misspelled(device, known)
        hint = _commands(metric, device, space) if near is None else f"--device {near}"
        correction = None if near is None else (device, near)
        return MissingError(message, got=str(metric), known=known, hint=hint, correction=correction)
    networks = "any network" if space is None else f"networks of {space}"
    return NoPredictorError(
        f"no predictor for {device} fits this metric for {networks}",
        got=str(metric),
        known=sorted(f"{entry.card.metric} ({entry.space or ANY})" for entry in entries),
        hint=_commands(metric, device, space),
    )


def _commands(metric: Metric, device: str, space: str | None) -> str:
    options = [("space", space), ("device", device)]
    parts = ("runtime", "precision", "fixed_batch")
    options += [(name.removeprefix("fixed_"), getattr(metric.deployment, name)) for name in parts]
    profile = "".join(f" --{name} {value}" for name, value in options if value)
    other = "" if metric.name in TIMED_METRICS else f" --metric {metric.name}"  # that of hwnas.toml may be another
    return f"hwnas profile{profile}, then hwnas fit --device {device}{other}"
