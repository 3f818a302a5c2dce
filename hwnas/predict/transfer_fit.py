"""Fit a predictor for a new device with the predictors of other devices as inputs."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import with_source_predictions
from hwnas.predict.fit import Observations, check_observations, make_card
from hwnas.predict.fitted_range import FittedRange
from hwnas.predict.intervals import calibrate
from hwnas.predict.models import counted_blocks
from hwnas.predict.predictor import Predictor, Source, Validation
from hwnas.predict.selection import HeldOutPredictions, Protocol
from hwnas.predict.transfer import transfer

NAME = "transfer"
"""Name of the mixture on a card."""


def transfer_predictor(
    observed: Observations,
    *,
    sources: Mapping[str, Source],
    predictions: Mapping[str, Numbers],
    unlike: Collection[str] = (),
    allow_mixed: bool = False,
) -> Predictor | None:
    """Fit a predictor that uses source devices; return None if it is no better than the best model without them.

    All scores on its card are leave-one-out scores.

    Args:
        observed: The measured networks of the new device.
        sources: Models of the source devices.
        predictions: Predictions of the measured networks by each source.
        unlike: Sources of another runtime or kind of device.
        allow_mixed: Accept measurements of several environments.

    Raises:
        InputError: The measurements are not valid, or are of fewer than four networks.
    """
    check_observations(observed, allow_mixed=allow_mixed)
    features, target = with_source_predictions(observed.features, predictions), observed.target
    mixture = transfer(features, target, sources=tuple(predictions), unlike=unlike)
    if not mixture.sources_help:
        return None
    validation = Validation(target=target, by_model={NAME: mixture.mixed, **mixture.by_method}, by_count={})
    held_out = HeldOutPredictions(
        target=target,
        protocol=Protocol(num_folds=len(mixture.folds), repeats=1, held_out="networks"),
        by_model={NAME: mixture.mixed[None]},
        folds=(mixture.folds,),
    )
    models = (mixture.fitted, *(source.model for source in sources.values()))
    card = make_card(
        replace(observed, features=features),
        held_out,
        NAME,
        validation=validation,
        count_names=tuple(dict.fromkeys(name for model in models for name in counted_blocks(model))),
    )
    data = replace(card.data, num_networks=len(mixture.folds))
    used = ", ".join(f"{name} {share:.0%}" for name, share in mixture.shares.items())
    return Predictor(
        card=replace(card, data=data, notes=(*card.notes, f"mixture of: {used}")),
        conditions=replace(observed.conditions, batch=1),
        model=mixture.fitted,
        intervals=calibrate(features, target, mixture.mixed[None]),
        fitted_range=FittedRange.fit(features, one_space=observed.space is not None),
        sources=dict(sources),
        validation=validation,
    )
