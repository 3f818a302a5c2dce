"""Predictors of other devices, for a fit that leans on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.devices import resolve
from hwnas.errors import InputError
from hwnas.metrics import Deployment, MeasuredMetric, Metric
from hwnas.pipeline.predictors.dataset import MeasuredNetworks
from hwnas.predict.arrays import Numbers
from hwnas.predict.predictor import Source
from hwnas.predict.selector import ChosenPredictor, choose_predictor


@dataclass(frozen=True, kw_only=True)
class FoundSources:
    """Other devices' models by device, and what each says of the measured networks."""

    sources: Mapping[str, Source]
    answers: Mapping[str, Numbers]
    unlike: frozenset[str]
    """The devices whose predictor is of another runtime or kind of device."""


def find_sources(
    networks: MeasuredNetworks, metric: MeasuredMetric, devices: Sequence[str], *, predictors: Path | None = None
) -> FoundSources:
    """The predictors of those devices for networks of this kind: of the same runtime where there is one."""
    named = list(dict.fromkeys(map(resolve, devices)))
    if networks.device.name in named:
        raise InputError("--from must name another device", got=networks.device.name)
    wanted = {device: Metric(name=metric, deployment=Deployment(device=device)) for device in named}
    chosen = {device: _chosen(networks, item, predictors) for device, item in wanted.items()}
    found = {device: _source(networks, predictor) for device, predictor in chosen.items()}
    answers = {name: source.answers(networks.featurised) for name, source in found.items()}
    return FoundSources(
        sources=found,
        answers={name: np.asarray(values) for name, values in answers.items()},
        unlike=frozenset(device for device, predictor in chosen.items() if _is_unlike(networks, predictor)),
    )


def _is_unlike(networks: MeasuredNetworks, chosen: ChosenPredictor) -> bool:
    kinds = chosen.predictor.conditions.kind, networks.device.kind
    return chosen.metric.deployment.runtime != networks.deployment.runtime or len(set(kinds)) > 1


def _source(networks: MeasuredNetworks, chosen: ChosenPredictor) -> Source:
    predictor = chosen.predictor
    if predictor.sources:
        raise InputError(f"{chosen.path} leans on other devices itself: it can be no source")
    batches = (predictor.card.metric.deployment.fixed_batch, networks.deployment.fixed_batch)
    batch = next(filter(None, (*batches, predictor.card.data.usual_batch)), 1)
    return Source(conditions=predictor.conditions, batch=batch, model=predictor.model)


def _chosen(networks: MeasuredNetworks, metric: Metric, predictors: Path | None) -> ChosenPredictor:
    try:
        same = metric.completed(Deployment(runtime=networks.deployment.runtime))
        return choose_predictor(same, space=networks.space, predictors=predictors)
    except InputError:  # there is none of that runtime: another one is still a basis, and leave-one-out judges it
        return choose_predictor(metric, space=networks.space, predictors=predictors)
