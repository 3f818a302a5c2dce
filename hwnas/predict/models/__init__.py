"""The models that are tried on every profile, and reading of stored ones."""

from collections.abc import Iterator
from typing import Any

from hwnas.errors import InputError
from hwnas.predict.models.analytic import Analytic, AnalyticLearner
from hwnas.predict.models.blocks import Blocks, BlocksLearner
from hwnas.predict.models.boosted import Boosted, BoostedLearner
from hwnas.predict.models.gaussian import Gaussian, GaussianLearner
from hwnas.predict.models.linear import Ridge, RidgeLearner
from hwnas.predict.models.model import Fitted, Learner
from hwnas.predict.models.scaled import Mean, Scaled
from hwnas.predict.models.stack import Stack, stack_weights
from hwnas.predict.stored import StoredTable
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

_KINDS: tuple[type[Analytic | Ridge | Blocks | Gaussian | Boosted | Scaled | Mean], ...] = (
    Analytic,
    Ridge,
    Blocks,
    Gaussian,
    Boosted,
    Scaled,
    Mean,
)
_MAX_MEMBERS, _MAX_DEPTH = 64, 3
"""Most members of a stack, and most stacks within each other."""
_ROUNDING = 1e-6


def fitted_from_json(data: StoredTable, *, depth: int = 0) -> Fitted:
    """Make a fitted model from stored values, which name its kind.

    Args:
        data: The values.
        depth: Number of stacks that the model is in.

    Raises:
        InputError: A value is missing, of another type, out of bounds or of another length than others require.
    """
    readers = {kind.kind: kind for kind in _KINDS}
    kind = data.text("kind", (*readers, Stack.kind))
    values = data.without("kind")
    if kind != Stack.kind:
        return readers[kind].from_json(values)
    if depth == _MAX_DEPTH:
        raise InputError(f"{data.where} must have at most {_MAX_DEPTH} stacks within each other")
    values.require_keys("members", "weights")
    members = tuple(fitted_from_json(item, depth=depth + 1) for item in values.tables("members", most=_MAX_MEMBERS))
    weights = values.array("weights", len(members), low=0, high=1 + _ROUNDING)
    if abs(weights.sum() - 1) > _ROUNDING:
        raise InputError(f"{data.where}.weights must have the sum 1", got=float(weights.sum()))
    return Stack(members=members, weights=weights)


def fitted_to_json(fitted: Fitted) -> dict[str, Any]:
    """Return a fitted model as plain values, with its kind."""
    return {"kind": fitted.kind, **fitted.to_json()}


def counted_blocks(fitted: Fitted) -> tuple[str, ...]:
    """Return the names of the blocks whose counts a model needs; most models need none."""
    names = (name for model in _simple_models(fitted) if isinstance(model, Blocks) for name in model.count_names)
    return tuple(dict.fromkeys(names))


def transfer_sources(fitted: Fitted) -> tuple[str, ...]:
    """Return the names of the sources whose predictions a model needs; most models need none."""
    names = (name for model in _simple_models(fitted) if isinstance(model, Scaled | Mean) for name in model.sources)
    return tuple(dict.fromkeys(names))


def _simple_models(fitted: Fitted) -> Iterator[Fitted]:
    """Yield a model, or the members of a stack and of the stacks in it."""
    if isinstance(fitted, Stack):
        for member in fitted.members:
            yield from _simple_models(member)
    else:
        yield fitted


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
    "Mean",
    "Ridge",
    "RidgeLearner",
    "Scaled",
    "Stack",
    "counted_blocks",
    "fitted_from_json",
    "fitted_to_json",
    "stack_weights",
    "transfer_sources",
]
