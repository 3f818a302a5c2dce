"""The models that are tried on every profile, and reading of stored ones."""

from typing import Any

from hwnas.config import shown
from hwnas.errors import InputError
from hwnas.predict.models.analytic import Analytic, AnalyticLearner
from hwnas.predict.models.blocks import Blocks, BlocksLearner
from hwnas.predict.models.boosted import Boosted, BoostedLearner
from hwnas.predict.models.gaussian import Gaussian, GaussianLearner
from hwnas.predict.models.linear import Ridge, RidgeLearner
from hwnas.predict.models.model import Fitted, Learner
from hwnas.predict.models.scaled import Scaled
from hwnas.predict.models.stack import Stack, stack_weights
from hwnas.registry import Registry

_ALL: tuple[Learner, ...] = (
    AnalyticLearner(),
    RidgeLearner(),
    RidgeLearner(name="quadratic", squared=True),
    BlocksLearner(),
    GaussianLearner(),
    BoostedLearner(),
)
LEARNERS: Registry[Learner] = Registry("predictor model", [(learner.name, learner) for learner in _ALL])
"""Simpler models come first: the order decides ties. The stack is made of all of them."""

_FITTED: Registry[Any] = Registry(
    "kind of fitted model",
    [(made.kind, made) for made in (Analytic, Ridge, Blocks, Gaussian, Boosted, Stack, Scaled)],
)


def fitted_from_json(data: object) -> Fitted:
    """Make a fitted model from plain values, which name its kind."""
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise InputError("a fitted model must be a table with its kind", got=shown(data))
    made = _FITTED.get(data["kind"])
    values = {name: value for name, value in data.items() if name != "kind"}
    try:
        if made is Stack:  # members are of any kind, this one included
            values["members"] = [fitted_from_json(member) for member in values["members"]]
        fitted: Fitted = made.from_json(values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a fitted model of kind {data['kind']!r} is incomplete", got=repr(error)) from error
    return fitted


def fitted_to_json(fitted: Fitted) -> dict[str, Any]:
    """Return a fitted model as plain values, with its kind."""
    return {"kind": fitted.kind, **fitted.to_json()}


def counted_blocks(fitted: Fitted) -> tuple[str, ...]:
    """Return the names of the blocks whose counts a model needs; most models need none."""
    members = fitted.members if isinstance(fitted, Stack) else (fitted,)
    named = [member.count_names if isinstance(member, Blocks) else () for member in members]
    nested = [counted_blocks(member) for member in members if isinstance(member, Stack)]
    return tuple(dict.fromkeys(name for names in (*named, *nested) for name in names))


__all__ = [
    "LEARNERS",
    "Analytic",
    "AnalyticLearner",
    "Blocks",
    "BlocksLearner",
    "Boosted",
    "BoostedLearner",
    "Fitted",
    "Gaussian",
    "GaussianLearner",
    "Learner",
    "Ridge",
    "RidgeLearner",
    "Scaled",
    "Stack",
    "counted_blocks",
    "fitted_from_json",
    "fitted_to_json",
    "stack_weights",
]
