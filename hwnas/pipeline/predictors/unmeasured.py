"""Choice of the measured devices from which an unmeasured one is predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwnas.data_paths import PROFILES, data_search_path
from hwnas.devices import DEVICES, Device, Machine, resolve
from hwnas.errors import InputError
from hwnas.files import path_within
from hwnas.metrics import (
    ANY_BATCH,
    PRECISION_PREFERENCE,
    PRECISIONS,
    RUNTIMES,
    TIMED_METRICS,
    Deployment,
    MeasuredMetric,
    Metric,
    Precision,
)
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, measured_profile, measured_table
from hwnas.predict.calibrated import FEW_NETWORKS, MIN_CALIBRATION, calibrated_predictor
from hwnas.predict.card import common_facts
from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.counting import workload_features
from hwnas.predict.folds import group_equal_networks
from hwnas.predict.lookup import predictor_folder
from hwnas.predict.pooled import MIN_DEVICES, MeasuredDevice, pooled_predictor, sustained_conditions
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from hwnas.predict.selector import ChosenPredictor
from hwnas.profile.lookup import ProfileEntry, TableEntry, profile_entries, table_entries
from hwnas.records.manifest import torch_version

POOLED = "unmeasured"
"""Subfolder of a folder of predictors for those of unmeasured devices; no command chooses them without a warning."""
_Entry = ProfileEntry | TableEntry


def choose_unmeasured(
    metric: Metric, *, profiles: Path | None = None, machine: Machine | None = None
) -> ChosenPredictor:
    """Make a predictor for an unmeasured device, from all measured ones of its kind.

    Args:
        metric: The metric; unspecified parts of its deployment are filled in from the pool.
        profiles: The only folder of profiles and tables to use; None: the default search path.
        machine: The machine whose device is used by default; None: this one.

    Returns:
        The predictor, in memory alone. Its note and its card say that the device was not measured.

    Raises:
        InputError: The device has no datasheet with rates, the metric does not follow from one, or fewer than two
            devices of its kind were measured in one deployment.
    """
    name = resolve(metric.deployment.device or "auto", machine=machine)
    if metric.name not in TIMED_METRICS:
        hint = f"hwnas profile on {name}"
        raise InputError(f"{metric.name} does not follow from a datasheet", got=name, known=TIMED_METRICS, hint=hint)
    if name not in DEVICES:
        hint = "hwnas profile on that device, or register its rates: hwnas.devices.DEVICES.add"
        raise InputError(f"an unmeasured device must have a datasheet, which {name} lacks", got=name, hint=hint)
    device = DEVICES.get(name)
    pools = _pools(metric.deployment, device, profiles)
    entries = _best_pool(pools, device)
    parts = [_measured(entry) for entry in entries]
    deployment = replace(entries[0].deployment, device=name, batch=metric.deployment.batch or ANY_BATCH, threads=None)
    autocast = all("autocast" in part.environment for part in parts)
    conditions = sustained_conditions(
        device, precision=_precision(deployment), runtime=str(deployment.runtime), autocast=autocast
    )
    predictor = pooled_predictor(
        [_part(part) for part in parts],
        device=device,
        metric=replace(metric, deployment=deployment),
        conditions=conditions,
        environment=common_facts([part.environment for part in parts]),
    )
    batch = deployment.fixed_batch or predictor.card.data.usual_batch
    complete = replace(metric, deployment=replace(deployment, batch=batch))
    return ChosenPredictor(
        metric=complete,
        predictor=predictor,
        path=Path(POOLED, predictor_folder(predictor.card.metric)),
        origin="own",
        note=f"{complete}: {predictor.card.notes[0]}",
    )


def calibrate_pool(
    networks: MeasuredNetworks, metric: MeasuredMetric, *, devices: Sequence[str] = (), profiles: Path | None = None
) -> Predictor | None:
    """Fit the few factors by which a device differs from others, to a few measured networks.

    Args:
        networks: The measured networks of the device.
        metric: Latency or throughput.
        devices: The only devices to pool; empty: all that were measured, of which there must be two.
        profiles: The only folder of profiles and tables to use; None: the default search path.

    Returns:
        The predictor; None if the networks are many, the device has no datasheet, or too few other devices were
        measured in its deployment: two, or each of those that are named.
    """
    name, deployment = networks.device.name, networks.deployment
    if not _are_few(networks, metric):
        return None
    device = DEVICES.get(name)
    try:
        conditions = _sustained(networks)
    except InputError:  # a datasheet without rates
        return None
    kept = _other_devices(deployment, device, devices=devices, profiles=profiles)
    if not kept:
        return None
    rows = networks.take(np.flatnonzero(np.isfinite(networks.values[metric])))
    return calibrated_predictor(
        [_part(_measured(source)) for source in kept],
        networks.observations(metric),
        features=rows.features_for(replace(conditions, batch=rows.batches)),
        conditions=conditions,
    )


def why_not_pooled(networks: MeasuredNetworks, metric: MeasuredMetric, *, profiles: Path | None = None) -> str | None:
    """Return why a few networks adapt no model of other devices; None if they are not few or they do.

    Args:
        networks: The measured networks of a device with a datasheet.
        metric: Latency or throughput.
        profiles: The only folder of profiles and tables to use; None: the default search path.
    """
    deployment, device = networks.deployment, networks.device
    if not _are_few(networks, metric) or other_devices(deployment, profiles=profiles):
        return None
    pools = _pools(Deployment(), device, profiles)
    fitting = [
        "/".join(key)
        for key in pools
        if other_devices(Deployment(device=device.name, runtime=key[0], precision=key[1]), profiles=profiles)
    ]
    own = f"{deployment.runtime}/{deployment.precision}"
    measured = f"; models of others are for {', '.join(sorted(fitting))}" if fitting else ""
    return f"few networks, and fewer than {MIN_DEVICES} other {device.kind.upper()}s measured in {own}{measured}"


def _are_few(networks: MeasuredNetworks, metric: MeasuredMetric) -> bool:
    """Return True if the networks are so few that they adapt a model of other devices, where a datasheet allows it."""
    few = MIN_CALIBRATION <= len(set(group_equal_networks(networks.features))) <= FEW_NETWORKS
    return few and metric in TIMED_METRICS and networks.device.name in DEVICES


def other_devices(deployment: Deployment, *, profiles: Path | None = None) -> tuple[str, ...]:
    """Return the devices from which a few networks of a device would be fitted; none if it is fitted for itself.

    Args:
        deployment: The device with its runtime and precision.
        profiles: The only folder of profiles and tables to use; None: the default search path.
    """
    name = str(deployment.device)
    if name not in DEVICES:
        return ()
    kept = _other_devices(deployment, DEVICES.get(name), profiles=profiles)
    return tuple(dict.fromkeys(source.device.name for source in kept))


def _other_devices(
    deployment: Deployment, device: Device, *, devices: Sequence[str] = (), profiles: Path | None = None
) -> list["_Source"]:
    """Return what was measured on other devices, or those that are named; nothing if these are too few."""
    pools = _pools(replace(deployment, device=None), device, profiles)
    sources = [source for same in pools.values() for source in same if source.device.name != device.name]
    kept = _newest([source for source in sources if not devices or source.device.name in devices])
    found = {source.device.name for source in kept}
    return kept if found.issuperset(devices) and len(found) >= (1 if devices else MIN_DEVICES) else []


def save_unmeasured(chosen: ChosenPredictor, out: Path) -> ChosenPredictor:
    """Write such a predictor below a folder of predictors, where only its path finds it."""
    folder = path_within(out, POOLED) / predictor_folder(chosen.predictor.card.metric)
    return replace(chosen, predictor=save_predictor(chosen.predictor, folder), path=folder)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A profile or table of a measured device."""

    device: Device
    deployment: Deployment
    version: tuple[int, ...]
    entry: _Entry


def _pools(deployment: Deployment, device: Device, profiles: Path | None) -> dict[tuple[str, str], list[_Source]]:
    """Return what was measured on devices of this kind with rates, by runtime and precision."""
    paths = data_search_path(PROFILES, profiles)
    found: dict[tuple[str, str], list[_Source]] = {}
    entries: list[_Entry] = [*profile_entries(paths), *table_entries(paths)]
    for entry in entries:
        manifest = entry.manifest
        own = entry.manifest.setting.deployment if isinstance(entry, ProfileEntry) else entry.manifest.deployment
        name = str(own.device)
        if name not in DEVICES or DEVICES.get(name).kind != device.kind:
            continue
        if not replace(deployment, device=None, batch=None, threads=None).matches(own):
            continue
        version = torch_version(manifest.environment)
        source = _Source(device=DEVICES.get(name), deployment=own, version=version, entry=entry)
        found.setdefault((str(own.runtime), str(own.precision)), []).append(source)
    return found


def _best_pool(pools: Mapping[tuple[str, str], Sequence[_Source]], device: Device) -> list[_Source]:
    """Return the pool of the best runtime; of a device that several versions were measured on, the newest version."""

    def rank(key: tuple[str, str]) -> tuple[int, int]:
        runtime, precision = key
        names = RUNTIMES.names()
        preference = PRECISION_PREFERENCE.index(precision) if precision in PRECISION_PREFERENCE else 99
        return names.index(runtime) if runtime in names else len(names), preference

    for key in sorted(pools, key=rank):
        sources = pools[key]
        if any(source.device.name == device.name for source in sources):
            hint = f"hwnas fit --device {device.name} --runtime {key[0]}"
            raise InputError(f"{device.name} was measured: fit a predictor to that", got="/".join(key), hint=hint)
        newest = _newest(sources)
        if len({source.device.name for source in newest}) >= MIN_DEVICES:
            return newest
    known = sorted(f"{'/'.join(key)}: {source.device.name}" for key, sources in pools.items() for source in sources)
    message = f"{device.name} must be measured, or {MIN_DEVICES} other {device.kind.upper()}s with a datasheet"
    hint = f"hwnas profile on {device.name}; or hwnas profiles import-timm"
    raise InputError(message, got=f"{len(known)} in this deployment", known=known, hint=hint)


def _newest(sources: Sequence[_Source]) -> list[_Source]:
    """Return the table of the newest version of each device, and its profiles."""
    newest: dict[tuple[str, str], _Source] = {}
    for source in sources:
        kind = "table" if isinstance(source.entry, TableEntry) else source.entry.name.partition("/")[2]
        other = newest.get((source.device.name, kind))
        if other is None or source.version > other.version:
            newest[source.device.name, kind] = source
    return list(newest.values())


def _measured(source: _Source) -> MeasuredNetworks:
    entry = source.entry
    return measured_table(entry) if isinstance(entry, TableEntry) else measured_profile(entry)


def _part(networks: MeasuredNetworks) -> MeasuredDevice:
    """Return the rows of a device under the rates that it sustains."""
    latency = networks.values["latency_ms"]
    measured = networks.take(np.flatnonzero(np.isfinite(latency)))
    conditions = replace(_sustained(networks), batch=measured.batches)
    return MeasuredDevice(
        device=networks.device,
        features=workload_features(measured.workloads, conditions),
        target=measured.values["latency_ms"],
        batches=measured.batches.astype(np.float64),
        sources=networks.sources,
        kinds=tuple(sorted(set(measured.space_names))),
        software=_software(networks),
    )


def _software(networks: MeasuredNetworks) -> str:
    runtime = str(networks.deployment.runtime)
    package = "torch" if runtime.startswith("torch") else runtime
    version = networks.environment.get(package)
    return "" if version is None else f"{package} {version}"


def _sustained(networks: MeasuredNetworks) -> Conditions:
    deployment = networks.deployment
    return sustained_conditions(
        networks.device,
        precision=_precision(deployment),
        runtime=str(deployment.runtime),
        autocast="autocast" in networks.environment,
    )


def _precision(deployment: Deployment) -> Precision:
    return next(name for name in PRECISIONS if name == deployment.precision)
