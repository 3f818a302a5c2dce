"""`hwnas.optimize`: a multi-objective search over Python objects, with metrics of the caller's own."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hwnas.arguments import checked_arguments
from hwnas.config import Above, Between, require_valid, shown, to_mapping
from hwnas.errors import InputError
from hwnas.files import file_errors, read_text, require_file_name
from hwnas.metrics import METRICS, Metric, Quantity
from hwnas.pipeline.search.options import choose_strategy
from hwnas.pipeline.search.predicted_metrics import CheapMetrics, MetricPredictor, supported_confidence
from hwnas.pipeline.search.surrogate import accuracy_surrogate
from hwnas.predict.intervals import DEFAULT_CONFIDENCE
from hwnas.predict.predictor import Predictor
from hwnas.progress import NullReporter, Reporter
from hwnas.search.ledger import Budget
from hwnas.search.objective import Metrics, exact, parse_constraint, parse_objective
from hwnas.search.pareto import hypervolume
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.result import SearchResult, make_networks
from hwnas.search.run import SearchOutcome, run_search
from hwnas.search.spec import MAX_SEED, space_digest
from hwnas.search.strategies.strategy import SearchStrategy
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Candidate, Genomes

MetricFunction: TypeAlias = Callable[[Sequence[Candidate]], Sequence[float] | NDArray[np.float64]]
"""Values of a batch of networks, in their order; NaN for a network that has none."""

_COSTS = ("macs", "params")


@dataclass(frozen=True, kw_only=True)
class CustomMetric:
    """A metric that a function of the caller computes.

    Values must not be negative, and the value of a network must not depend on the other networks of its batch.
    """

    function: MetricFunction
    goal: Literal["min", "max"] = "min"
    unit: str = ""
    expensive: bool = False
    """True: a call costs far more than a look-up (training, measuring). The search then evaluates as few networks as
    its budget allows and fits a surrogate to them. At most one metric of a search can be expensive."""
    largest: Annotated[float, Above(0, 1e30)] = 1.0
    """A value that no network exceeds, of an expensive metric: it scales the hypervolume. Free metrics are sampled."""
    batch_size: Annotated[int, Between(1, 1_000_000)] = 16
    """Networks per call, of an expensive metric: what an interrupted search loses at most."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True)
class LatencyTable:
    """Known values by network id or arch id, in place of a predictor; other networks are infeasible.

    In a space of several deployments, values by the id of a candidate are those of its deployment.
    """

    values: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping) or not self.values:
            got = "an empty one" if isinstance(self.values, Mapping) else type(self.values).__name__
            raise InputError("a table must be a mapping from ids to values", got=got)

    @classmethod
    @checked_arguments
    def from_csv(cls, path: str | Path, *, key: str = "network_id", value: str = "latency_ms") -> "LatencyTable":
        """Read a table with a header.

        Args:
            path: The CSV file.
            key: The column with the ids.
            value: The column with the values.

        Raises:
            InputError: The file cannot be read, lacks a column, or has a value that is not a number.
        """
        text = read_text(Path(path))
        try:
            with file_errors(path):
                return cls({row[key]: float(row[value]) for row in csv.DictReader(io.StringIO(text, newline=""))})
        except KeyError as error:
            raise InputError(f"{path} must have the columns {key} and {value}", got=f"no {error}") from error
        except (TypeError, ValueError) as error:  # TypeError: a row that is too short
            raise InputError(f"{path} must be a CSV table of numbers", got=error) from error

    def __call__(self, networks: Sequence[Candidate]) -> list[float]:
        """Look networks up; NaN for those that are not in the table."""
        ids = [
            (network.network_id, network.arch_id) if network.deployment is None else (network.id, network.network_id)
            for network in networks
        ]
        return [next((self.values[name] for name in names if name in self.values), float("nan")) for names in ids]


MetricSource: TypeAlias = CustomMetric | LatencyTable | Predictor | MetricFunction


@checked_arguments
def optimize(
    space: str | AnySpace,
    *,
    objectives: Sequence[str] | None = None,
    constraints: Sequence[str] = (),
    accuracy: CustomMetric | MetricFunction | None = None,
    metrics: Mapping[str, MetricSource] | None = None,
    strategy: str | SearchStrategy | None = None,
    budget: int = 500,
    minutes: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> SearchResult:
    """Search a space for the Pareto front of metrics that the caller supplies.

    Args:
        space: A search space or the name of a registered one.
        objectives: Metrics to optimise; by default accuracy if it is given, MACs, and all of `metrics`.
        constraints: Bounds such as `"latency_ms<=8"` or `"params<=20M"`.
        accuracy: A function from a batch of networks to their accuracies in [0, 1]. It is expensive unless it is a
            `CustomMetric` that says otherwise.
        metrics: Further metrics by name: a function, a `CustomMetric`, a `LatencyTable`, or a `Predictor`. MACs and
            parameters are always known.
        strategy: A strategy or its name; by default `rounds` with an expensive metric and `nsga2` without one.
        budget: Evaluations of the expensive metric; of any network if none is expensive.
        minutes: A time limit as well.
        seed: Decides everything random.
        out: A folder in which evaluations are stored. The same call resumes an interrupted search there.
        reporter: Receives progress.

    Returns:
        All evaluated networks with their metrics, and the front.

    Raises:
        InputError: Names, bounds or values that cannot be used; more than one expensive metric.
    """
    space = SPACES.get(space) if isinstance(space, str) else space
    Between(0, MAX_SEED).check(seed, where="seed")
    sources = _sources(accuracy, metrics or {})
    own = {name: _quantity(name, source) for name, source in sources.items() if name not in METRICS}
    problem = _problem(space, sources, objectives, constraints, own)
    evaluators = _evaluators(space, sources, problem)
    name, chosen = choose_strategy(strategy, space=space, expensive=problem.has_expensive)
    allowed = Budget(evaluations=budget, minutes=minutes)
    config = {
        "space": space.name,
        "space_digest": space_digest(space),
        "objectives": [str(item) for item in problem.objectives],
        "constraints": [str(item) for item in problem.constraints],
        "strategy": name,
        "settings": to_mapping(chosen),
        "budget": budget,  # strategies derive the size of their rounds from it
        "seed": seed,
    }
    with nullcontext() if out is None else Study.open(Path(out), config=config) as study:
        outcome = run_search(
            problem,
            evaluators,
            strategy=chosen,
            budget=allowed,
            seed=seed,
            study=study,
            on_progress=(reporter or NullReporter()).update,
        )
    return _result(problem, outcome, sources, own)


def _sources(
    accuracy: CustomMetric | MetricFunction | None, metrics: Mapping[str, MetricSource]
) -> dict[str, CustomMetric | Predictor]:
    """Return the metrics by name, functions and tables as custom metrics."""
    found: dict[str, CustomMetric | Predictor] = {}
    if accuracy is not None:
        if not isinstance(accuracy, CustomMetric):
            accuracy = CustomMetric(function=accuracy, goal="max", expensive=True)
        found["accuracy"] = accuracy
    for name, source in metrics.items():
        if name in found or name in _COSTS:
            raise InputError(f"{name} must not be given as a further metric", hint="another name")
        if not isinstance(source, CustomMetric | Predictor):
            source = CustomMetric(function=source, goal=METRICS.get(name).goal if name in METRICS else "min")
        found[name] = _checked(name, source)
    expensive = [name for name, source in found.items() if isinstance(source, CustomMetric) and source.expensive]
    if len(expensive) > 1:
        raise InputError("at most one metric can be expensive", got=", ".join(expensive))
    return found


def _checked(name: str, source: CustomMetric | Predictor) -> CustomMetric | Predictor:
    """Return the source of a metric, whose name must suit it."""
    require_file_name(name, what="the name of a metric")
    if name in METRICS:
        goal = METRICS.get(name).goal
        if isinstance(source, CustomMetric) and source.goal != goal:
            raise InputError(f"{name} must have the goal {goal!r}", got=source.goal, hint="another name")
    elif isinstance(source, Predictor):
        raise InputError("a predictor needs the name of the metric that it predicts", got=name, known=METRICS.names())
    return source


def _quantity(name: str, source: CustomMetric | Predictor) -> Quantity:
    """Return what is known of a metric that is the caller's own; it is registered nowhere."""
    assert isinstance(source, CustomMetric), "a predictor of a metric that is not known"
    largest = source.largest if source.expensive else float("inf")
    units = {"": 1.0, source.unit: 1.0}
    return Quantity(name=name, goal=source.goal, unit=source.unit, units=units, on_device=False, largest=largest)


def _problem(
    space: AnySpace,
    sources: Mapping[str, CustomMetric | Predictor],
    objectives: Sequence[str] | None,
    constraints: Sequence[str],
    own: Mapping[str, Quantity],
) -> Problem:
    if objectives is None:
        objectives = list(dict.fromkeys([*(name for name in sources if name == "accuracy"), "macs", *sources]))
    for text in (*objectives, *constraints):
        if not isinstance(text, str):
            raise InputError("objectives and constraints must be texts", got=shown(text), hint='"latency_ms<=8"')
    problem = Problem(
        space=space,
        objectives=tuple(parse_objective(text, own=own) for text in objectives),
        constraints=tuple(parse_constraint(text, own=own) for text in constraints),
        expensive=next((n for n, item in sources.items() if isinstance(item, CustomMetric) and item.expensive), None),
    )
    unknown_names = [name for name in problem.metrics if name not in sources and name not in _COSTS]
    if unknown_names:
        hint = "give it in metrics={...}"
        raise InputError("every metric of the search needs a source", got=", ".join(unknown_names), hint=hint)
    return problem


def _evaluators(space: AnySpace, sources: Mapping[str, CustomMetric | Predictor], problem: Problem) -> Evaluators:
    predictors = tuple(
        MetricPredictor(metric=Metric(name=name), predictor=source)
        for name, source in sources.items()
        if isinstance(source, Predictor)
    )
    confidence = supported_confidence(predictors, DEFAULT_CONFIDENCE)
    costs_and_predictions = CheapMetrics(space=space, predictors=predictors, confidence=confidence)
    custom = {
        name: source
        for name, source in sources.items()
        if isinstance(source, CustomMetric) and name != problem.expensive
    }

    def cheap(genomes: Genomes) -> Metrics:
        networks = space.candidates(genomes) if custom else ()
        values = {name: exact(_evaluate(name, source, networks)) for name, source in custom.items()}
        return {**costs_and_predictions(genomes), **values}

    if problem.expensive is None or not problem.has_expensive:
        return Evaluators(cheap=cheap)
    name, source = problem.expensive, sources[problem.expensive]
    assert isinstance(source, CustomMetric)

    def expensive(genomes: Genomes) -> Iterator[tuple[int, float]]:
        for start in range(0, len(genomes), source.batch_size):
            networks = space.candidates(genomes[start : start + source.batch_size])
            yield from enumerate(_evaluate(name, source, networks).tolist(), start=start)

    return Evaluators(cheap=cheap, expensive=expensive, fit=accuracy_surrogate(space))


def _evaluate(name: str, source: CustomMetric, networks: Sequence[Candidate]) -> NDArray[np.float64]:
    """Call the function and check that it returns one number per network."""
    found = source.function(networks)
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the function of {name} must return numbers", got=error) from error
    if values.shape != (len(networks),):
        message = f"the function of {name} must return one number for each network"
        raise InputError(message, got=f"shape {values.shape} for {len(networks)} networks")
    if (values < 0).any():
        raise InputError(f"values of {name} must not be negative", got=float(values.min()))
    if name == "accuracy" and (values > 1).any():
        raise InputError("accuracies must be at most 1", got=float(np.nanmax(values)), hint="0.75 for 75 %")
    return np.where(np.isinf(values), np.nan, values)  # neither is a value


def _result(
    problem: Problem, outcome: SearchOutcome, sources: Mapping[str, object], own: Mapping[str, Quantity]
) -> SearchResult:
    found = outcome.candidates
    names = list(dict.fromkeys([*problem.metrics, *found.metrics]))
    predicted = [name for name in names if isinstance(sources.get(name), Predictor)]
    ends = {name: np.stack([found.metrics[name].lower, found.metrics[name].upper], axis=1) for name in predicted}
    scores = found.scores
    return SearchResult(
        space=problem.space,
        objectives=problem.objectives,
        constraints=problem.constraints,
        networks=make_networks(
            problem.space.candidates(found.genomes) if len(found.genomes) else (),
            values={name: found.metrics[name].mean.tolist() for name in names},
            intervals={name: [(low, high) for low, high in values.tolist()] for name, values in ends.items()},
            feasible=scores.feasible.tolist(),
            on_front=outcome.front.tolist(),
        ),
        hypervolume=hypervolume(scores.objectives, outcome.bounds, feasible=scores.feasible),
        evaluations=outcome.evaluations,
        stop=outcome.stop,
        own_metrics=own,
    )
