"""A predictor for a new device that leans on those of others, with a card of its own."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import with_answers
from hwnas.predict.fit import Observations, check_observations, make_card
from hwnas.predict.fitted_range import FittedRange
from hwnas.predict.intervals import calibrate
from hwnas.predict.models import counted_blocks
from hwnas.predict.predictor import Predictor, Source, Trial
from hwnas.predict.selection import Answers, Protocol
from hwnas.predict.transfer import Transferred, transfer

NAME = "transfer"
"""Name of the mixture on a card."""


def transfer_predictor(
    observed: Observations,
    *,
    sources: Mapping[str, Source],
    answers: Mapping[str, Numbers],
    unlike: Collection[str] = (),
    allow_mixed: bool = False,
) -> Predictor | None:
    """The predictor that leans on the sources; None where that is no better than the best model without them.

    `answers` are what the sources say of the measured networks, `unlike` the sources of another runtime or kind of
    device. Every figure is a leave-one-out one.
    """
    check_observations(observed, allow_mixed=allow_mixed)
    features, target = with_answers(observed.features, answers), observed.target
    made = transfer(features, target, sources=tuple(answers), unlike=unlike)
    if not made.leans:
        return None
    leaning = replace(observed, features=features)
    trial = Trial(target=target, by_model={NAME: made.answers, **made.by_way}, by_count={})
    card = make_card(leaning, _as_answers(made, target), NAME, trial=trial, count_names=_counted(made, sources))
    data = replace(card.data, num_networks=len(made.folds))
    used = ", ".join(f"{name} {share:.0%}" for name, share in made.shares.items())
    return Predictor(
        card=replace(card, data=data, notes=(*card.notes, f"mixed of: {used}")),
        conditions=replace(observed.conditions, batch=1),
        model=made.fitted,
        intervals=calibrate(features, target, made.answers[None]),
        fitted_range=FittedRange.of(features, one_space=observed.space is not None),
        sources=dict(sources),
        trial=trial,
    )


def _counted(made: Transferred, sources: Mapping[str, Source]) -> tuple[str, ...]:
    models = (made.fitted, *(source.model for source in sources.values()))
    return tuple(dict.fromkeys(name for model in models for name in counted_blocks(model)))


def _as_answers(made: Transferred, target: Numbers) -> Answers:
    """The mixture's leave-one-out answers, as cross-validation would have them."""
    protocol = Protocol(num_folds=len(made.folds), repeats=1, held_out="networks")
    return Answers(target=target, protocol=protocol, by_model={NAME: made.answers[None]}, folds=(made.folds,))
