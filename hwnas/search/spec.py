"""The specification of a search: everything that was requested or taken as a default, resolved to plain values.

    RUN/manifest.json   holds it as the run's config
    RUN/search.json     holds it in the field `spec`
    RUN/study.sqlite    holds the part of it that the candidates depend on

A run is resumed from it alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from hwnas.config import Above, Between, FileName, from_mapping, require_valid, to_mapping
from hwnas.errors import InputError
from hwnas.metrics import Deployment, Metric, parse_metric
from hwnas.runs import MANIFEST, Run
from hwnas.search.choice import Pick
from hwnas.search.ledger import Budget
from hwnas.search.objective import (
    Criteria,
    parse_constraint,
    parse_objective,
    require_consistent,
    require_objectives,
    require_one_quality,
)
from hwnas.search.problem import Problem
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.strategy import SearchStrategy
from hwnas.space import SPACES
from hwnas.space.arch import digest
from hwnas.space.deployed import DeployedSpace
from hwnas.space.space import AnySpace

MAX_SEED = 2**32 - 1
"""The largest seed: what generators of numpy, torch and the learners can all take."""

Confidence = Annotated[float, Above(0, 0.999999)]
"""The share of true values that lie in an interval."""

_NOT_IN_STUDY = ("num_seeds", "random_baseline", "post_search", "notes")
_NOT_IN_STUDY_OF_SUPERNET = ("path", "data")


@dataclass(frozen=True, kw_only=True)
class PostSearch:
    """Steps after a search: measuring the front, retraining and exporting winners."""

    verify: bool = True
    """Measure its networks if their device is in this machine."""
    pairs: Annotated[int, Between(8, 100_000)] | None = None
    """Runs of each network, alternating with the reference network; None: the default of campaigns."""
    retrain: Annotated[int, Between(0, 10_000)] = 0
    """Number of winners that are retrained, and evaluated once on the test images."""
    retrain_epochs: Annotated[int, Between(1, 100_000)] | None = None
    """In place of the number in the recipe."""
    retrain_from: Literal["inherited", "scratch"] = "inherited"
    """Weights that retraining begins with: those inherited from the supernet, or fresh ones."""
    export_top: Annotated[int, Between(0, 10_000)] = 1
    """Number of winners that are exported."""
    pick: str = "balanced"
    """The rule that chooses the first winner: `balanced`, `accuracy`, `fast`, or limits that it must meet."""
    max_drop: Annotated[float, Between(0, 1)] | None = None
    """Largest accuracy that the graph of a winner in int8 may lose against float32; None: any."""
    repair: bool = False
    """Repair winners that were cut from a model, as far as they inherit their weights, by least squares."""

    def __post_init__(self) -> None:
        require_valid(self)
        Pick.parse(self.pick)

    @property
    def num_winners(self) -> int:
        """The number of winners that are exported or retrained."""
        return max(self.export_top, self.retrain)


@dataclass(frozen=True, kw_only=True)
class PredictorSpec:
    """The predictor of a metric, which the run holds a copy of."""

    metric: str
    path: Path
    """Relative to the run, in its folder `predictors`."""
    card_sha256: str

    def __post_init__(self) -> None:
        parse_metric(self.metric)
        require_inside(self.path, what="path")


@dataclass(frozen=True, kw_only=True)
class SupernetSpec:
    """The supernet that accuracy is evaluated with, the images that it is evaluated on, and the machine's settings."""

    path: Path
    """A run of `hwnas train`, or a file of weights."""
    digest: str
    data: str | None = None
    """A data set in place of that of the supernet's run."""
    data_name: str
    """The data set that is used."""
    data_fingerprint: str
    num_images: Annotated[int, Between(1, 10**9)]
    """Held-out images that accuracy is evaluated on."""
    compute: Literal["cpu", "cuda"]
    threads: Annotated[int, Between(1, 1024)]
    matmul_backend: Literal["default", "onednn"]
    """The backend of float32 matrix products on a CPU."""
    precision: FileName | None = None
    """The precision that all networks are evaluated in if it changes accuracy; None: float32, or their own."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """A resolved search: what is searched for, how, with which evaluators, and what happens to the front."""

    space: FileName
    image_size: Annotated[int, Between(1, 16_384)]
    channels: Annotated[int, Between(1, 1024)]
    num_classes: Annotated[int, Between(1, 1_000_000)]
    space_digest: str
    """Of the dimensions of the space and their choices, which genomes depend on."""
    objectives: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    deployments: tuple[str, ...] | None = None
    """The runtimes and precisions that the search chooses among for each network; None: there is no choice."""
    confidence: Confidence | None = None
    """Constraints hold for the unfavourable ends of intervals of this confidence; None: for the mean."""
    interval_confidence: Confidence | None = None
    """The confidence of the intervals in the study; None where nothing is predicted."""
    strategy: str
    settings: Mapping[str, Any]
    """Of the strategy."""
    budget: Budget
    seed: Annotated[int, Between(0, MAX_SEED)]
    num_seeds: Annotated[int, Between(1, 1000)] = 1
    random_baseline: bool = False
    """Run a random search as well, even where evaluations are expensive."""
    predictors: tuple[PredictorSpec, ...] = ()
    supernet: SupernetSpec | None = None
    """None for a search without accuracy."""
    versions: tuple[str, ...]
    """`name==version` of the packages that the result may depend on."""
    post_search: PostSearch
    notes: tuple[str, ...] = ()
    """Which defaults were taken for what the options left out."""

    def __post_init__(self) -> None:
        require_valid(self)
        require_objectives(self.criteria.objectives)
        require_consistent(self.criteria.constraints)
        require_one_quality(self.criteria)
        if self.deployments is not None and len(self.deployments) < 2:
            raise InputError("deployments must be several, or be left out", got=", ".join(self.deployments) or "none")
        if not self.versions:
            raise InputError("versions must name hwnas first", got="none")

    @property
    def criteria(self) -> Criteria:
        """The objectives and constraints, parsed."""
        return Criteria(
            objectives=tuple(map(parse_objective, self.objectives)),
            constraints=tuple(map(parse_constraint, self.constraints)),
        )

    @property
    def study_config(self) -> dict[str, Any]:
        """The plain values that candidates and their metrics depend on; a study is resumed only with equal ones."""
        values = {name: value for name, value in to_mapping(self).items() if name not in _NOT_IN_STUDY}
        if self.supernet is not None:
            supernet = to_mapping(self.supernet).items()
            values["supernet"] = {name: value for name, value in supernet if name not in _NOT_IN_STUDY_OF_SUPERNET}
        if not self.budget.earlier:  # as studies are whose search was never given more
            values["budget"] = {name: value for name, value in values["budget"].items() if name != "earlier"}
        return values

    def load_space(self, run: Path) -> AnySpace:
        """Return the space at the images and classes of the search.

        Raises:
            InputError: The code's space is no longer the one that `run` searched, so genomes would be misread.
        """
        space: AnySpace = SPACES.get(self.space).adapted(
            image_size=self.image_size, channels=self.channels, num_classes=self.num_classes
        )
        if self.deployments is not None:
            space = DeployedSpace.of(space, [Deployment.parse(text) for text in self.deployments])
        if space_digest(space) != self.space_digest:
            raise InputError(
                f"{run}: the networks of the study must be of {self.space} as it is now",
                got="other choices or sizes: the space has changed since it was searched",
                hint=f"use {self.versions[0]}, which made the run, or start a new search",
            )
        return space

    def deployment_of(self, metric: Metric) -> Deployment | None:
        """Return the searched deployment that a predictor's metric is of; None where there is no choice."""
        if self.deployments is None:
            return None
        for deployment in map(Deployment.parse, self.deployments):
            if deployment.matches(metric.deployment):
                return deployment
        message = "the metric of a predictor must be of one of the searched deployments"
        raise InputError(message, got=str(metric), known=self.deployments)

    def column_of(self, metric: Metric) -> Metric:
        """Return the metric of the study that a predictor's metric gives values of: what is searched is left open."""
        deployment = self.deployment_of(metric)
        searched = {} if deployment is None else {n: None for n, value in vars(deployment).items() if value is not None}
        return replace(metric, deployment=replace(metric.deployment, **searched))

    def make_problem(self, space: AnySpace) -> Problem:
        """Return the optimisation problem in a space."""
        return Problem.of(self.criteria, space=space, confident=self.confidence is not None)

    def make_strategy(self) -> SearchStrategy:
        """Return the strategy with its settings."""
        return from_mapping(STRATEGIES.get(self.strategy), self.settings, where=f"settings of {self.strategy}")


def require_inside(path: Path, *, what: str) -> None:
    """Require that a path from a file leads to a place within the run."""
    if path.is_absolute() or ".." in path.parts or path == Path():
        raise InputError(f"{what} must be a path within the run", got=str(path))


def space_digest(space: AnySpace) -> str:
    """Return a digest of what genomes of a space mean: its dimensions with their choices, and its config."""
    dimensions = [to_mapping(dimension) for dimension in space.dimensions]
    values = {"space": space.name, "config": to_mapping(space.config), "dimensions": dimensions}
    if isinstance(space, DeployedSpace):
        values["deployments"] = [str(deployment) for deployment in space.deployments]
    return digest(values)


def read_spec(run: Run) -> SearchSpec:
    """Read the specification in the manifest of a search's run.

    Raises:
        InputError: The run is of another command, or was made before searches had a specification.
    """
    config = run.manifest.config
    if {"search", "finish"} <= config.keys():
        raise InputError(
            f"{run.path} must be a search with a specification, which hwnas.search/2 introduced",
            got=f"a search of hwnas.search/1, made by hwnas {run.manifest.environment.hwnas}",
            hint="read it with the version of hwnas that made it, or start a new search",
        )
    if not {"objectives", "space_digest"} <= config.keys():
        raise InputError(f"{run.path} must be the run of a search", got="another kind of run", hint="hwnas search")
    return from_mapping(SearchSpec, config, where=f"{run.path / MANIFEST}: config")
