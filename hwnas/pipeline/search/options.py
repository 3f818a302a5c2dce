"""What a user asks of a search, and the config that it is worked out to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwnas.config import from_mapping
from hwnas.errors import InputError, UsageError, unknown
from hwnas.predict.intervals import USUAL_CONFIDENCE
from hwnas.profile.statistics import MIN_RUNS
from hwnas.profile.timing import PAIRS
from hwnas.runs import MANIFEST, Run
from hwnas.search.budget import Budget
from hwnas.search.objective import (
    Constraint,
    Objective,
    make_objectives,
    parse_constraint,
    parse_objective,
    require_consistent,
)
from hwnas.search.problem import Problem
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.strategy import Strategy
from hwnas.space import SPACES
from hwnas.space.space import AnySpace

DEFAULT_SPACE = "autoformer-tiny"
DEFAULT_BUDGET = 500
DEFAULT_CONFIDENCE = USUAL_CONFIDENCE
"""Of the intervals of predictions, where constraints are not held with another one."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is done with the front when the search has ended."""

    verify: bool = True
    """Measure its networks again where the device is here."""
    pairs: int = PAIRS
    """Runs of each network, in strict turn with the reference network."""
    retrain: int = 0
    """So many winners are trained on, and judged once on the test pictures."""
    retrain_epochs: int | None = None
    kit: int = 1
    """So many winners are exported."""

    def __post_init__(self) -> None:
        for name in ("retrain", "kit"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} must be at least 0", got=getattr(self, name))
        if self.pairs < MIN_RUNS:
            raise UsageError(f"--pairs must be at least {MIN_RUNS}", got=self.pairs)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is searched for, in what, and how; None is left to us."""

    space: str | None = None
    supernet: Path | None = None
    """A run of `hwnas train`, or a file of weights."""
    data: str | None = None
    device: str | None = None
    """The device of metrics that name none."""
    objectives: tuple[str, ...] = ()
    """Beside accuracy and MACs."""
    constraints: tuple[str, ...] = ()
    confidence: float | None = None
    """Constraints hold for the unfavourable ends of intervals of this confidence."""
    accuracy: bool = True
    macs: bool = True
    strategy: str | Strategy | None = None
    budget: int | None = None
    minutes: float | None = None
    seed: int = 0
    num_seeds: int = 1
    random_baseline: bool = False
    """Whether random search is run beside it where evaluations are dear; where they are free it always is."""
    predictors: Path | None = None
    """A folder of predictors to look in alone."""
    profiles: Path | None = None
    """A folder of profiles to fit predictors from, where there are none."""
    runs: Path = Path("runs")
    """Where supernets are looked for, and where the run is made."""
    finish: Finish = field(default_factory=Finish)

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise UsageError("--seeds must be at least 1", got=self.num_seeds)
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise UsageError("--confidence must be between 0 and 1", got=self.confidence, hint="--confidence 0.9")
        if self.budget is not None and self.budget < 1:
            raise UsageError("--budget must be at least 1", got=self.budget)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError("--minutes must be above 0", got=self.minutes, hint="--minutes 30")


@dataclass(frozen=True, kw_only=True)
class PredictorChoice:
    """The predictor of a metric, as it lies in the run."""

    metric: str
    path: Path
    """Relative to the run."""
    card_sha256: str


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """All that the searched front depends on: a study goes on only with an equal one."""

    space: str
    image_size: int
    channels: int
    num_classes: int
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    confidence: float | None = None
    interval_confidence: float | None = None
    strategy: str
    settings: Mapping[str, Any]
    """Of the strategy."""
    evaluations: int | None = None
    minutes: float | None = None
    seed: int
    supernet_digest: str | None = None
    data_fingerprint: str | None = None
    predictors: tuple[PredictorChoice, ...] = ()
    space_digest: str | None = None
    """Of the dimensions of the space and their choices."""
    versions: tuple[str, ...]
    compute: str
    """Where accuracy is judged."""
    threads: int
    matmul_backend: str
    """The backend of float32 matrix products on a CPU."""

    @property
    def budget(self) -> Budget:
        """How long the search may go on."""
        return Budget(evaluations=self.evaluations, minutes=self.minutes)

    def make_strategy(self) -> Strategy:
        """The strategy with its settings."""
        kind = STRATEGIES.get(self.strategy)
        return from_mapping(kind, self.settings, where=f"settings of {self.strategy}")

    def make_problem(self, space: AnySpace) -> Problem:
        """What is searched for in a space."""
        return Problem(
            space=space,
            objectives=tuple(map(parse_objective, self.objectives)),
            constraints=tuple(map(parse_constraint, self.constraints)),
            confident=self.confidence is not None,
        )

    def named_space(self) -> AnySpace:
        """The space at its images and classes."""
        space: AnySpace = SPACES.get(self.space).adapted(
            image_size=self.image_size, channels=self.channels, num_classes=self.num_classes
        )
        return space


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The config in the manifest of a search: what decides the front, and what is done besides."""

    search: SearchConfig
    supernet: Path | None = None
    """The run or the file."""
    data: str | None = None
    """Other pictures than those of the supernet's run."""
    num_seeds: int = 1
    random_baseline: bool = False
    finish: Finish
    notes: tuple[str, ...] = ()
    """What was left to us, and what we took."""


def read_run_config(run: Run) -> RunConfig:
    """The config of a search's run."""
    if not {"search", "finish"} <= run.manifest.config.keys():
        raise InputError(f"{run.path} must be the run of a search", got="another kind of run", hint="hwnas search")
    return from_mapping(RunConfig, run.manifest.config, where=f"{run.path / MANIFEST}: config")


def chosen_strategy(given: str | Strategy | None, *, space: AnySpace, dear: bool) -> tuple[str, Strategy]:
    """The strategy that is asked for, or the one that suits: rounds where a metric is dear, levels for GLiT."""
    if isinstance(given, Strategy):
        name = next(name for name in STRATEGIES.names() if STRATEGIES.get(name) is type(given))
        return name, given
    if given is None:
        given = ("hierarchical" if space.family == "glit" else "rounds") if dear else "nsga2"
    if given not in STRATEGIES:
        raise unknown("strategy", given, STRATEGIES.names(), hint="--strategy {}")
    if given == "rounds" and not dear:
        message = "rounds need accuracy: without it every evaluation is free"
        raise UsageError(message, got="--strategy rounds --no-accuracy", hint="--strategy nsga2")
    name, strategy = STRATEGIES.resolve(given), STRATEGIES.get(given)()
    _require_levels(name, strategy, space)
    return name, strategy


def _require_levels(name: str, strategy: Strategy, space: AnySpace) -> None:
    """A strategy of two levels must find the dimensions of the first one in the space."""
    level, known = getattr(strategy, "first_level", ()), {dimension.name for dimension in space.dimensions}
    if not known.issuperset(level):
        message = f"{name} searches {', '.join(level)} first, which {space.name} does not have"
        raise InputError(message, got=f"--strategy {name}", hint="--strategy rounds, or a space of GLiT")


def parsed(options: SearchOptions) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """Objectives and constraints as they are written, checked before anything is opened."""
    try:
        objectives = make_objectives(options.objectives, accuracy=options.accuracy, macs=options.macs)
        constraints = tuple(map(parse_constraint, options.constraints))
        require_consistent(constraints)
    except InputError as error:
        raise _named(error) from error
    return objectives, constraints


def _named(error: InputError) -> InputError:
    """The same error with what to type."""
    hint = error.hint
    if hint is not None and not hint.startswith("--"):
        option = "--constraint" if any(sense in hint for sense in ("<=", ">=")) else "--objective"
        text = f"'{hint}'" if option == "--constraint" else hint
        hint = f"hwnas search {option} {text}"
    return type(error)(error.message, got=error.got, known=error.known, hint=hint)
