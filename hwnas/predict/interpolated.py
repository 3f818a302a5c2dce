"""Predictors of a batch size that was not measured, from those of a smaller and a larger one.

The time is interpolated linearly in the batch size: a part of it is spent once per run, the other once per image. The
truth lies between two extremes: that images take as long as in the smaller batch, or as long as in the larger one.
Intervals are widened by the distance to these, by one factor for all networks. It is small where the time is nearly
proportional to the batch, as on a CPU, and large where a GPU begins to be full.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hwnas.errors import InputError
from hwnas.predict.arrays import Numbers
from hwnas.predict.card import INTERPOLATED, Ranked, common_facts
from hwnas.predict.models import Mean
from hwnas.predict.predictor import Predictor, Source
from hwnas.space import SPACES

_MODEL = "interpolated"
_NETWORKS = 200
_USUAL = 0.9
"""Share of networks whose distance to the extremes is allowed for."""
_DEFAULT_SPACE = "autoformer-tiny"
_MAX_NAMED = 6


def interpolate(lower: Predictor, upper: Predictor, *, batch: int) -> Predictor:
    """Make the predictor of a batch size between those of two predictors of one deployment.

    Args:
        lower: The predictor of a smaller batch.
        upper: The predictor of a larger batch.
        batch: The batch size.

    Raises:
        InputError: The batch is not between theirs, or one of them was made from other predictors itself.
    """
    first, second = (predictor.card.metric.deployment.fixed_batch for predictor in (lower, upper))
    if first is None or second is None or not first < batch < second:
        raise InputError("the batch must be between those of two predictors", got=batch, known=[first, second])
    for predictor in (lower, upper):
        if predictor.sources:
            message = f"{predictor.card.metric} cannot be interpolated, because it was made from other predictors"
            raise InputError(message, hint=f"measure batch {batch}")
    faster, slower = _extremes(lower, upper, first=first, second=second, batch=batch)
    # The card and the shape of the intervals are those of the less accurate of the two.
    worse, measured = max(((lower, first), (upper, second)), key=lambda pair: pair[0].card.scores.mape)
    better, other = (upper, second) if worse is lower else (lower, first)
    names = {batch: f"batch {batch}" for batch in (first, second)}
    sources = {
        names[first]: Source(conditions=lower.conditions, batch=first, model=lower.model),
        names[second]: Source(conditions=upper.conditions, batch=second, model=upper.model),
    }
    # That of the other is checked with features of its own batch.
    sources[names[other]] = replace(sources[names[other]], fitted_range=better.fitted_range)
    environments = lower.card.environment, upper.card.environment
    card, metric = worse.card, worse.card.metric
    count_names = dict.fromkeys((*lower.card.data.count_names, *upper.card.data.count_names))
    data = replace(
        card.data,
        sources=tuple(dict.fromkeys((*lower.card.data.sources, *upper.card.data.sources))),
        is_mixed=lower.card.data.is_mixed or upper.card.data.is_mixed,
        num_networks=min(lower.card.data.num_networks, upper.card.data.num_networks),
        count_names=tuple(count_names),
    )
    note = (
        f"{INTERPOLATED}: interpolated between batch {first} and batch {second}; errors are those at batch {measured}, "
        f"and intervals allow for {faster:.1%} less and {slower:.1%} more in addition"
        f"{_differing(*environments)}"
    )
    return replace(
        worse,
        card=replace(
            card,
            metric=replace(metric, deployment=replace(metric.deployment, batch=batch)),
            data=data,
            model=_MODEL,
            ranking=(Ranked(model=_MODEL, scores=card.scores),),
            learning_curve=(),
            notes=(note, *card.notes),
            environment=common_facts(environments),
        ),
        model=Mean(sources=tuple(sources), weights=_weights(first, second, batch)),
        intervals=replace(worse.intervals, below=faster, above=slower),
        fitted_range=worse.fitted_range.with_range_of(names[other]),
        sources=sources,
        batch=measured,
        validation=None,
    )


def _weights(first: int, second: int, batch: int) -> Numbers:
    """Return the weights of the times of the smaller and the larger batch."""
    return np.array([second - batch, batch - first]) / (second - first)


def _extremes(lower: Predictor, upper: Predictor, *, first: int, second: int, batch: int) -> tuple[float, float]:
    """Return by how much less and more the time of usual networks may be than it is interpolated, as logarithms."""
    known = [name for name in (lower.card.space, *lower.card.data.kinds) if name is not None and name in SPACES]
    names = known[:1] if lower.card.space is not None else known
    below, above = [], []
    for name in names or [_DEFAULT_SPACE]:
        space = SPACES.get(name)
        population = space.workloads(space.sample(np.random.default_rng(0), _NETWORKS))
        logs = [np.log(part.model.predict(part.population(population))) for part in (lower, upper)]
        per_image = [logs[0] + math.log(batch / first), logs[1] - math.log(second / batch)]
        between = np.log(_weights(first, second, batch) @ np.exp(logs))
        # A larger batch takes no less time, so neither extreme may leave the times of both.
        low, high = np.minimum(logs[0], logs[1]), np.maximum(logs[0], logs[1])
        least, most = np.clip(np.minimum(*per_image), low, high), np.clip(np.maximum(*per_image), low, high)
        below.append(between - least)
        above.append(most - between)
    return tuple(max(float(np.quantile(np.concatenate(parts), _USUAL)), 0.0) for parts in (below, above))  # type: ignore[return-value]


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """Return the clause of a note that names the facts in which two environments differ; empty if there are none."""
    names = [name for name in dict.fromkeys((*first, *second)) if first.get(name) != second.get(name)]
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"; their environments differ in {', '.join(names[:_MAX_NAMED])}{more}"
