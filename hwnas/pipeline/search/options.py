"""Options of a search and their first checks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from hwnas.config import Above, Between, require_valid
from hwnas.errors import InputError, UsageError, unknown
from hwnas.metrics import QUALITIES
from hwnas.search.choice import Pick
from hwnas.search.objective import (
    Criteria,
    make_objectives,
    parse_constraint,
    require_consistent,
    require_one_quality,
)
from hwnas.search.spec import MAX_SEED, Confidence, PostSearch
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.strategy import SearchStrategy
from hwnas.space.deployed import networks_of
from hwnas.space.space import AnySpace

DEFAULT_SPACE = "autoformer-tiny"
DEFAULT_BUDGET = 500
TRAIN_COMMAND = "hwnas train --space {space} --data DIR"
"""The command that makes a supernet, with a placeholder."""

MAX_EVALUATIONS = 1_000_000
"""Largest budget."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of a search; None takes the default."""

    space: str | None = None
    supernet: Path | None = None
    """A run of `hwnas train`, or a file of weights; None: the newest supernet of the space under `runs`."""
    data: str | None = None
    """A data set in place of that of the supernet's run."""
    device: str | None = None
    """The device of metrics that name none; None: this machine's."""
    runtimes: tuple[str, ...] = ()
    """The runtimes of all device metrics; of several, the search chooses one for each network."""
    precisions: tuple[str, ...] = ()
    """The precisions of all device metrics; of several, the search chooses one for each network."""
    objectives: tuple[str, ...] = ()
    """In addition to accuracy and MACs; `knn_accuracy` or `divergence` stands in place of accuracy."""
    constraints: tuple[str, ...] = ()
    confidence: Confidence | None = None
    """Check constraints against the unfavourable ends of intervals of this confidence."""
    accuracy: bool = True
    macs: bool = True
    strategy: str | SearchStrategy | None = None
    levels: Literal["shared", "separate"] = "shared"
    """GLiT's levels in one supernet, or each in its own: layouts are then searched in the given one, the best are
    trained on their own, and the details of the best one are searched in a supernet that is trained for it."""
    budget: Annotated[int, Between(1, MAX_EVALUATIONS)] | None = None
    minutes: Annotated[float, Above(0, 1_000_000)] | None = None
    seed: Annotated[int, Between(0, MAX_SEED)] = 0
    num_seeds: Annotated[int, Between(1, 1000)] = 1
    random_baseline: bool = False
    """Run a random search as well where evaluations are expensive; where they are free it always runs."""
    predictors: Path | None = None
    """The only folder to look for predictors in."""
    profiles: Path | None = None
    """A folder of profiles to fit missing predictors to."""
    unmeasured: bool = False
    """For a device without measurements, predict from those of other devices."""
    runs: Path = Path("runs")
    """Folder in which supernets are found and the run is created."""
    post_search: PostSearch = field(default_factory=PostSearch)

    def __post_init__(self) -> None:
        require_valid(self)


def choose_strategy(
    given: str | SearchStrategy | None, *, space: AnySpace, expensive: bool
) -> tuple[str, SearchStrategy]:
    """Return the requested strategy with its name, or the one that suits the search.

    Args:
        given: A name, a strategy with settings, or None for the default: on expensive metrics `rounds`, or
            `hierarchical` for GLiT, whose layout and details are searched on two levels; else `nsga2`.
        space: The space that is searched.
        expensive: True if one of the metrics is expensive.
    """
    if isinstance(given, SearchStrategy):
        for name in STRATEGIES:
            if STRATEGIES.get(name) is type(given):
                return name, given
        message = "a strategy of one's own must be registered"
        raise InputError(message, got=type(given).__name__, hint="hwnas.search.strategies.STRATEGIES.add(NAME, CLASS)")
    if given is None:
        given = ("hierarchical" if _has_two_levels(space) else "rounds") if expensive else "nsga2"
    _require_strategy(given)
    if given == "rounds" and not expensive:
        message = "rounds need accuracy: without it every evaluation is free"
        raise UsageError(message, got="--strategy rounds --no-accuracy", hint="--strategy nsga2")
    name, strategy = STRATEGIES.resolve(given), STRATEGIES.get(given)()
    level, known = getattr(strategy, "first_level", ()), {dimension.name for dimension in space.dimensions}
    if not known.issuperset(level):
        message = f"{name} searches {', '.join(level)} first, which {space.name} does not have"
        raise InputError(message, got=f"--strategy {name}", hint="--strategy rounds, or a space of GLiT")
    return name, strategy


def _require_strategy(name: str) -> None:
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES.names(), hint="--strategy {}")


def _has_two_levels(space: AnySpace) -> bool:
    """Return True for a space of GLiT in which both the layout and the details are chosen."""
    counts = [(dimension.name == "groups", len(dimension.choices)) for dimension in networks_of(space).dimensions]
    return networks_of(space).family == "glit" and {first for first, count in counts if count > 1} == {True, False}


def parse_criteria(options: SearchOptions, *, command: str = "hwnas search") -> Criteria:
    """Parse the objectives and constraints, before anything is loaded; errors say what to type after `command`."""
    try:
        objectives = make_objectives(options.objectives, accuracy=options.accuracy, macs=options.macs)
        constraints = tuple(map(parse_constraint, options.constraints))
        require_consistent(constraints)
    except InputError as error:
        hint = error.hint
        if hint is not None and not hint.startswith("--"):
            is_constraint = any(sense in hint for sense in ("<=", ">="))
            hint = f"{command} --constraint '{hint}'" if is_constraint else f"{command} --objective {hint}"
        raise type(error)(error.message, got=error.got, known=error.known, hint=hint) from error
    if isinstance(options.strategy, str):
        _require_strategy(options.strategy)
    criteria = Criteria(objectives=objectives, constraints=constraints)
    require_one_quality(criteria)
    if options.post_search.retrain and criteria.quality is None:
        message = "only networks of a supernet can be retrained, and a search without accuracy has no supernet"
        raise UsageError(message, got=f"--retrain {options.post_search.retrain}", hint="leave out --retrain")
    if options.post_search.repair and criteria.quality is None:
        message = "only networks of a supernet can be repaired, and a search without accuracy has no supernet"
        raise UsageError(message, got="--repair", hint="leave out --repair")
    pick = Pick.parse(options.post_search.pick)
    pick.require_known(criteria.metrics, resolved=False)
    if pick.name == "accuracy" and not any(item.metric.name in QUALITIES for item in criteria.objectives):
        raise UsageError("a search without accuracy has no most accurate network", got="--pick accuracy")
    for option, value, reason in _unused(options, criteria):
        raise UsageError(f"{option} has no effect: {reason}", got=value, hint=f"leave out {option}")
    return criteria


def _unused(options: SearchOptions, criteria: Criteria) -> Iterator[tuple[str, object, str]]:
    """Yield options that nothing would read, which is seldom what was meant."""
    if criteria.quality is None:
        for option, value in (("--supernet", options.supernet), ("--data", options.data)):
            if value is not None:
                yield option, value, "without accuracy no network is evaluated"
    if not criteria.device_metrics:
        given = {
            "--device": options.device,
            "--runtime": ",".join(options.runtimes) or None,
            "--precision": ",".join(options.precisions) or None,
            "--predictors": options.predictors,
            "--confidence": options.confidence,
            "--unmeasured": options.unmeasured or None,
        }
        for option, unread in given.items():
            if unread is not None:
                yield option, unread, "no objective or constraint is a metric of a device"
