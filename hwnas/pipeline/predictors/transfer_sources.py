"""Selection of predictors of other devices for a transfer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.devices import resolve
from hwnas.errors import InputError
from hwnas.metrics import Deployment, MeasuredMetric, Metric
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks
from hwnas.predict.arrays import Numbers
from hwnas.predict.predictor import Source
from hwnas.predict.selector import ChosenPredictor, NoPredictorError, choose_predictor


@dataclass(frozen=True, kw_only=True)
class TransferSources:
    """Models of other devices, and their predictions of the measured networks, by device."""

    sources: Mapping[str, Source]
    predictions: Mapping[str, Numbers]
    unlike: frozenset[str]
    """Devices with a predictor of another runtime or kind of device."""


def find_sources(
    networks: MeasuredNetworks, metric: MeasuredMetric, devices: Sequence[str], *, predictors: Path | None = None
) -> TransferSources:
    """Choose a predictor of each device for these networks, of the same runtime if there is one."""
    named = list(dict.fromkeys(map(resolve, devices)))
    if networks.device.name in named:
        raise InputError("--from must name another device", got=networks.device.name)
    wanted = {device: Metric(name=metric, deployment=Deployment(device=device)) for device in named}
    chosen = {device: _choose(networks, item, predictors) for device, item in wanted.items()}
    sources = {device: _source(networks, predictor) for device, predictor in chosen.items()}
    return TransferSources(
        sources=sources,
        predictions={name: source.predict(networks.features_for) for name, source in sources.items()},
        unlike=frozenset(
            device
            for device, source in chosen.items()
            if source.metric.deployment.runtime != networks.deployment.runtime
            or source.predictor.conditions.kind != networks.device.kind
        ),
    )


def _source(networks: MeasuredNetworks, chosen: ChosenPredictor) -> Source:
    predictor = chosen.predictor
    if predictor.sources:
        raise InputError(f"{chosen.path} cannot be a source, because it was transferred from other devices itself")
    batches = (predictor.card.metric.deployment.fixed_batch, networks.deployment.fixed_batch)
    batch = next(filter(None, (*batches, predictor.card.data.usual_batch)), 1)
    return Source(conditions=predictor.conditions, batch=batch, model=predictor.model)


def _choose(networks: MeasuredNetworks, metric: Metric, predictors: Path | None) -> ChosenPredictor:
    try:
        same = metric.completed(Deployment(runtime=networks.deployment.runtime))
        return choose_predictor(same, space=networks.space, predictors=predictors)
    except NoPredictorError:  # another runtime may help too; leave-one-out errors decide
        return choose_predictor(metric, space=networks.space, predictors=predictors)
