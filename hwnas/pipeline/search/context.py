"""Everything a search needs, opened: from what a user asks, or from the run that is gone on with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.config import to_mapping
from hwnas.devices import Machine
from hwnas.errors import HwnasError, InputError, MissingError, UsageError
from hwnas.metrics import parse_metric
from hwnas.pipeline.search.defaults import Asked, complete, known_space, missing, newest_supernet
from hwnas.pipeline.search.options import (
    DEFAULT_BUDGET,
    DEFAULT_CONFIDENCE,
    DEFAULT_SPACE,
    PredictorChoice,
    RunConfig,
    SearchConfig,
    SearchOptions,
    chosen_strategy,
    parsed,
)
from hwnas.pipeline.search.predicted_metrics import (
    CheapMetrics,
    MetricPredictor,
    require_confidence,
    supported_confidence,
)
from hwnas.predict.selector import ChosenPredictor
from hwnas.predict.store import load_predictor
from hwnas.progress import MessageRecorder, Reporter
from hwnas.runs import Run, hwnas_version, package_versions
from hwnas.search.objective import Constraint, Objective
from hwnas.search.problem import Problem
from hwnas.search.same_space import require_digest, space_digest
from hwnas.space import SPACES
from hwnas.space.space import AnySpace

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import OpenSupernet

PREDICTORS = "predictors"
"""The folder of a run that holds the predictors it used."""

_PACKAGES = ("moocore", "numpy", "pymoo", "scikit-learn", "scipy", "torch", "xgboost")
"""Versions that a search's result may depend on."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A search that is ready to begin or to go on."""

    config: RunConfig
    space: AnySpace
    problem: Problem
    cheap: CheapMetrics
    predictors: tuple[tuple[Path, MetricPredictor], ...]
    """Each with the folder that it was read from."""
    supernet: "OpenSupernet | None"

    @property
    def search(self) -> SearchConfig:
        """What the front depends on."""
        return self.config.search


def begin(
    options: SearchOptions, *, reporter: Reporter, machine: Machine | None = None, scratch: Path | None = None
) -> Bench:
    """Open all that a search needs; what is missing is one error, which names the commands that make it.

    A predictor that must be fitted first is kept in the folder of predictors, or lies in `scratch` where that is given.
    """
    notes = MessageRecorder(reporter)
    objectives, constraints = parsed(options)
    dear = _has_accuracy(objectives, constraints)
    if options.finish.retrain and not dear:
        message = "only networks of a supernet are trained on: without accuracy there is none"
        raise UsageError(message, got=f"--retrain {options.finish.retrain}", hint="leave out --retrain")
    name = None if options.space is None else known_space(options.space)
    problems: list[HwnasError] = []
    if name is None and options.supernet is None:
        name = DEFAULT_SPACE
        notes.message(f"space {name}, where none is named")
    supernet = _supernet(options, name, reporter=notes, problems=problems) if dear else None
    space = supernet.space if supernet is not None else _bare_space(options, name)
    asked = _asked(
        options, objectives, constraints, space, reporter=notes, problems=problems, machine=machine, scratch=scratch
    )
    if problems or asked is None:
        raise missing(problems)
    strategy, settings = chosen_strategy(options.strategy, space=space, dear=dear)
    predictors = tuple(MetricPredictor(metric=item.metric, predictor=item.predictor) for item in asked.chosen)
    search = SearchConfig(
        space=space.name,
        image_size=space.config.image_size,
        channels=space.config.channels,
        num_classes=space.config.num_classes,
        objectives=tuple(map(str, asked.objectives)),
        constraints=tuple(map(str, asked.constraints)),
        confidence=options.confidence,
        interval_confidence=_confidence(options, predictors, reporter=notes),
        strategy=strategy,
        settings=to_mapping(settings),
        evaluations=options.budget or (DEFAULT_BUDGET if options.minutes is None else None),
        minutes=options.minutes,
        seed=options.seed,
        predictors=tuple(_choice(item) for item in asked.chosen),
        space_digest=space_digest(space),
        versions=versions(),
        **_of_supernet(supernet),
    )
    config = RunConfig(
        search=search,
        supernet=None if supernet is None else supernet.path.resolve(),
        data=_lasting(options.data),
        num_seeds=options.num_seeds,
        random_baseline=options.random_baseline,
        finish=options.finish,
        notes=tuple(notes.messages),
    )
    pairs = tuple(zip((item.path for item in asked.chosen), predictors, strict=True))
    return _bench(config, space, pairs, supernet)


def reopen(run: Path, config: RunConfig) -> Bench:
    """Open again what a run was begun with; what has changed since shows as another configuration."""
    supernet = None
    if config.supernet is not None:
        from hwnas.pipeline.search.accuracy import open_supernet

        supernet = open_supernet(config.supernet, space=config.search.space, data=config.data)
    space = config.search.named_space() if supernet is None else supernet.space
    made_by = Run.open(run).manifest.environment.hwnas
    require_digest(space, config.search.space_digest, where=str(run), made_by=made_by)
    pairs = tuple((run / choice.path, _loaded(run, choice)) for choice in config.search.predictors)
    # Threads and the matmul backend are set as they were; all else must be what it was.
    now = {**_of_supernet(supernet), "threads": config.search.threads, "matmul_backend": config.search.matmul_backend}
    choices = tuple(
        replace(choice, card_sha256=item.predictor.card.card_sha256)
        for choice, (_, item) in zip(config.search.predictors, pairs, strict=True)
    )
    digest = config.search.space_digest and space_digest(space)  # older runs have none, and go on without
    search = replace(config.search, predictors=choices, space_digest=digest, versions=versions(), **now)
    return _bench(replace(config, search=search), space, pairs, supernet)


def _lasting(data: str | None) -> str | None:
    """The pictures by a name that is good in any working folder."""
    if data is None:
        return None
    from hwnas.train.options import absolute_name

    return absolute_name(data)


@contextmanager
def settled(search: SearchConfig) -> Iterator[None]:
    """Within it, torch has the threads and the matmul backend of the search."""
    with _cpu_settings(search):
        yield


def versions() -> tuple[str, ...]:
    """The versions that a result may depend on."""
    found = package_versions(_PACKAGES)
    return (f"hwnas=={hwnas_version()}", *(f"{name}=={version}" for name, version in found.items()))


def _cpu_settings(search: SearchConfig) -> Any:
    if search.supernet_digest is None:
        return nullcontext()
    from hwnas.train.machine import cpu_settings

    return cpu_settings(threads=search.threads, matmul_backend=search.matmul_backend)


def _bench(
    config: RunConfig,
    space: AnySpace,
    predictors: tuple[tuple[Path, MetricPredictor], ...],
    supernet: "OpenSupernet | None",
) -> Bench:
    search = config.search
    cheap = CheapMetrics(
        space=space,
        predictors=tuple(item for _, item in predictors),
        confidence=search.interval_confidence or DEFAULT_CONFIDENCE,
    )
    return Bench(
        config=config,
        space=space,
        problem=search.make_problem(space),
        cheap=cheap,
        predictors=predictors,
        supernet=supernet,
    )


def _has_accuracy(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> bool:
    metrics = [*(one.metric for one in objectives), *(one.metric for one in constraints)]
    return any(metric.name == "accuracy" for metric in metrics)


def _supernet(
    options: SearchOptions, space: str | None, *, reporter: Reporter, problems: list[HwnasError]
) -> "OpenSupernet | None":
    path = options.supernet
    if path is None:
        assert space is not None
        path = newest_supernet(space, runs=options.runs)
        if path is None:
            hint = f"hwnas train --space {space} --data DIR, or --no-accuracy"
            message = f"there is no trained supernet of {space} under {options.runs}"
            problems.append(InputError(message, got="no --supernet", hint=hint))
            return None
        reporter.message(f"supernet {path}, the newest one of {space}")
    from hwnas.pipeline.search.accuracy import open_supernet

    return open_supernet(path, space=space, data=options.data)


def _bare_space(options: SearchOptions, name: str | None) -> AnySpace:
    """The space where accuracy is not asked for, or its supernet is missing."""
    if name is not None:
        space: AnySpace = SPACES.get(name)
        return space
    from hwnas.supernet.store import load_supernet
    from hwnas.train.options import supernet_file

    assert options.supernet is not None
    found: AnySpace = load_supernet(supernet_file(options.supernet)).space
    return found


def _asked(
    options: SearchOptions,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    space: AnySpace,
    *,
    reporter: Reporter,
    problems: list[HwnasError],
    machine: Machine | None,
    scratch: Path | None,
) -> Asked | None:
    try:
        asked = complete(
            objectives,
            constraints,
            space=space.name,
            device=options.device,
            predictors=options.predictors,
            profiles=options.profiles,
            fitted=scratch or options.predictors or Path(PREDICTORS),
            reporter=reporter,
            machine=machine,
        )
    except (InputError, MissingError) as error:
        problems.append(error)
        return None
    for item in asked.chosen:
        kept = scratch is None or not item.path.is_relative_to(scratch)
        reporter.message(f"predictor {item.note}; {item.path if kept else 'fitted for this dry run and not kept'}")
    return asked


def _confidence(options: SearchOptions, predictors: tuple[MetricPredictor, ...], *, reporter: Reporter) -> float | None:
    if not predictors:
        return None
    if options.confidence is not None:
        require_confidence(predictors, options.confidence)
        return options.confidence
    best = supported_confidence(predictors, DEFAULT_CONFIDENCE)
    if best < DEFAULT_CONFIDENCE:
        reporter.message(
            f"intervals of {best:.0%}: the predictors were fitted to too few networks for {DEFAULT_CONFIDENCE:.0%}"
        )
    return best


def _choice(item: ChosenPredictor) -> PredictorChoice:
    path = Path(PREDICTORS, *item.path.parts[-3:])
    return PredictorChoice(metric=str(item.metric), path=path, card_sha256=item.predictor.card.card_sha256)


def _loaded(run: Path, choice: PredictorChoice) -> MetricPredictor:
    return MetricPredictor(metric=parse_metric(choice.metric), predictor=load_predictor(run / choice.path))


def _of_supernet(supernet: "OpenSupernet | None") -> dict[str, Any]:
    """What accuracy depends on."""
    if supernet is None:
        return {"compute": "cpu", "threads": 1, "matmul_backend": "default"}
    import torch

    from hwnas.supernet.matmul import matmul_backend

    compute = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "supernet_digest": supernet.digest,
        "data_fingerprint": supernet.data.fingerprint,
        "compute": compute,
        "threads": torch.get_num_threads(),
        "matmul_backend": matmul_backend() if compute == "cpu" else "default",
    }
