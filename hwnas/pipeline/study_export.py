"""`hwnas study export`: the candidates of a search as a storage of Optuna, or as a table."""

import os
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.arguments import checked_arguments
from hwnas.errors import InputError, MissingError
from hwnas.files import file_errors
from hwnas.report.data import RunData
from hwnas.report.gather import gather
from hwnas.runs import Run
from hwnas.search.pareto import known_rows
from hwnas.search.record import VerifiedMember
from hwnas.search.spec import read_spec
from hwnas.search.study import Study
from hwnas.space.arch import canonical_json
from hwnas.space.deployed import DEPLOYMENT
from hwnas.space.dimension import Dimension

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

StudyFormat = Literal["optuna", "csv", "parquet", "pandas"]
"""`pandas` is a Feather file, which `pandas.read_feather` reads with the types of its columns."""

TrialState = Literal["complete", "infeasible", "failed", "waiting"]
"""State of a candidate: all objectives are known; it violates a constraint, so that it was not evaluated; an objective
could not be determined; or it is still to be evaluated."""

_NAMES: Mapping[StudyFormat, str] = {
    "optuna": "study.optuna.log",
    "csv": "study.csv",
    "parquet": "study.parquet",
    "pandas": "study.feather",
}
_DATABASE = (".db", ".sqlite", ".sqlite3")
"""Ends of the names of SQLite databases; any other storage of Optuna is a journal, which is written much faster."""


@dataclass(frozen=True, kw_only=True)
class ExportedStudy:
    """A study that was written for other programs."""

    run: Path
    file: Path
    format: StudyFormat
    num_trials: int
    url: str | None
    """How Optuna's dashboard opens it; None for a table."""


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A candidate of a search."""

    number: int
    arch_id: str
    network_id: str
    deployment: str | None
    arch: Mapping[str, Any]
    state: TrialState
    generation: int
    genes: Mapping[str, float | str]
    """By the name of the dimension; only those that the network uses."""
    metrics: Mapping[str, float]
    """The values that the search used."""
    intervals: Mapping[str, tuple[float, float]]
    measured: Mapping[str, float]
    constraints: Mapping[str, float]
    """By how much each constraint is violated; 0 or less: it holds."""
    feasible: bool
    on_front: bool
    evaluated: datetime


@checked_arguments
def export_study(run: Path, *, to: StudyFormat = "optuna", out: Path | None = None) -> ExportedStudy:
    """Write all candidates of a search, finished or not, for other programs.

    Args:
        run: The run of `hwnas search`.
        to: `optuna`: a storage that Optuna and its dashboard open: a journal, or an SQLite database if the name of
            `out` ends in `.db` or `.sqlite`. `csv`, `parquet`, or `pandas` for a Feather file: a table with one row
            per candidate.
        out: The file, which must not exist yet; by default `study.` and the format in the run.

    Raises:
        InputError: The folder is not the run of a search, or the file exists or cannot be written.
        MissingError: Optuna is not installed.
    """
    file = out or run / _NAMES[to]
    if os.path.lexists(file):
        raise InputError(f"{file} must be a new file", got="one that exists", hint="another --out")
    data = gather(run, evidence=False)
    trials = tuple(_trials(data))
    with file_errors(file, "written"):
        file.parent.mkdir(parents=True, exist_ok=True)
    if to == "optuna":
        url = _write_optuna(file, data, trials)
    else:
        url = None
        _write_table(file, to, _columns(trials))
    return ExportedStudy(run=run, file=file, format=to, num_trials=len(trials), url=url)


def _trials(data: RunData) -> Iterator[_Trial]:
    spec = read_spec(Run.open(data.path)) if data.record is None else data.record.spec
    problem = spec.make_problem(data.space)
    candidates = data.candidates
    names = gene_names(data.space.dimensions)
    violations = problem.violations(candidates.metrics, problem.constraints)
    objectives = problem.scores(candidates.metrics).objectives
    states = _states(objectives, admitted=problem.admits(candidates.metrics), finished=data.finished)
    verification = None if data.record is None else data.record.verification
    verified = {} if verification is None else {item.arch_id: item for item in verification.members}
    front = {member.row for member in data.front if member.stands}
    with Study.read(data.path) as study:
        times = study.evaluated_at()
    for row, candidate in enumerate(data.space.candidates(candidates.genomes)):
        known = {name: values.rows(slice(row, row + 1)) for name, values in candidates.metrics.items()}
        yield _Trial(
            number=row,
            arch_id=candidate.id,
            network_id=candidate.network_id,
            deployment=None if candidate.deployment is None else str(candidate.deployment),
            arch=candidate.arch.to_mapping(),
            state=states[row],
            generation=int(candidates.generations[row]),
            genes={
                name: _choice(data, dimension, int(gene))
                for name, dimension, gene, used in zip(
                    names, data.space.dimensions, candidates.genomes[row], candidates.used[row], strict=True
                )
                if used
            },
            metrics={name: float(item.mean[0]) for name, item in known.items() if np.isfinite(item.mean[0])},
            intervals={
                name: (float(item.lower[0]), float(item.upper[0]))
                for name, item in known.items()
                if item.lower[0] < item.upper[0]
            },
            measured=_measured(verified.get(candidate.id)),
            constraints=dict(zip(map(str, problem.constraints), violations[row].tolist(), strict=True)),
            feasible=bool(candidates.feasible[row]),
            on_front=row in front,
            evaluated=datetime.fromtimestamp(times.get(row, 0.0), UTC),
        )


def gene_names(dimensions: Sequence[Dimension]) -> tuple[str, ...]:
    """Return a distinct name for each dimension: `num_heads.3` for the fourth block, `stage1.depth` for a stage."""
    return tuple(
        "".join(
            (
                "" if item.stage is None else f"stage{item.stage}.",
                item.name,
                "" if item.block is None else f".{item.block}",
            )
        )
        for item in dimensions
    )


def _choice(data: RunData, dimension: Dimension, gene: int) -> float | str:
    if data.deployments and dimension.name == DEPLOYMENT:
        return data.deployments[gene]
    return dimension.choices[gene]


def _states(objectives: NDArray[np.float64], *, admitted: NDArray[np.bool_], finished: bool) -> list[TrialState]:
    missing: TrialState = "failed" if finished else "waiting"
    return [
        "complete" if known else missing if possible else "infeasible"
        for known, possible in zip(known_rows(objectives).tolist(), admitted.tolist(), strict=True)
    ]


def _measured(member: VerifiedMember | None) -> dict[str, float]:
    checks = {} if member is None else member.metrics
    return {name: check.measured for name, check in checks.items() if check.measured is not None}


def _columns(trials: Sequence[_Trial]) -> dict[str, list[Any]]:
    """Return the columns of a table; a value that a candidate lacks is None."""
    columns: dict[str, list[Any]] = {
        name: [getattr(trial, name) for trial in trials]
        for name in ("number", "generation", "arch_id", "network_id", "state", "feasible", "on_front")
    }
    if any(trial.deployment for trial in trials):
        columns["deployment"] = [trial.deployment for trial in trials]
    columns["evaluated_utc"] = [trial.evaluated.isoformat(timespec="seconds") for trial in trials]
    for prefix, field in (
        ("", "metrics"),
        ("measured ", "measured"),
        ("violation ", "constraints"),
        ("gene ", "genes"),
    ):
        for name in dict.fromkeys(name for trial in trials for name in getattr(trial, field)):
            columns[f"{prefix}{name}"] = [getattr(trial, field).get(name) for trial in trials]
            if field == "metrics" and any(name in trial.intervals for trial in trials):
                for end, side in enumerate(("lower", "upper")):
                    ends = [trial.intervals.get(name, (None, None))[end] for trial in trials]
                    columns[f"{name} {side}"] = ends
    columns["arch"] = [canonical_json(trial.arch) for trial in trials]
    return columns


def _write_table(file: Path, to: StudyFormat, columns: Mapping[str, list[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import csv, feather, parquet

    table = pa.table(dict(columns))
    write = {"csv": csv.write_csv, "parquet": parquet.write_table, "pandas": feather.write_feather}[to]
    with _aside(file) as temporary, file_errors(file, "written"):
        write(table, str(temporary))


def _write_optuna(file: Path, data: RunData, trials: Sequence[_Trial]) -> str:
    """Write a storage with one study, and return its address."""
    try:
        import optuna
    except ImportError as error:
        message = "optuna must be installed to write its storage"
        raise MissingError(message, got=error, hint="pip install 'hwnas[optuna]', or --to parquet") from error
    directions: list[Any] = ["maximize" if metric.maximised else "minimize" for metric in data.objectives]
    is_journal = file.suffix not in _DATABASE
    with _aside(file) as temporary, file_errors(file, "written"), _quiet(optuna):
        storage: Any
        if is_journal:
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            storage = JournalStorage(JournalFileBackend(str(temporary)))
        else:
            storage = optuna.storages.RDBStorage(f"sqlite:///{temporary.resolve()}")
            _without_syncs(storage.engine)
        study = optuna.create_study(study_name=data.name, storage=storage, directions=directions)
        study.set_metric_names([metric.key for metric in data.objectives])
        for name, value in _study_attributes(data).items():
            study.set_user_attr(name, value)
        study.add_trials(list(_optuna_trials(data, trials)))
        if not is_journal:
            storage.engine.dispose()  # the database is closed before it is renamed
    return str(file) if is_journal else f"sqlite:///{file}"


def _study_attributes(data: RunData) -> dict[str, Any]:
    spec = read_spec(Run.open(data.path)) if data.record is None else data.record.spec
    return {
        "hwnas": data.manifest.environment.hwnas,
        "command": " ".join(data.manifest.command),
        "space": data.space.name,
        "strategy": spec.strategy,
        "seed": spec.seed,
        "constraints": list(spec.constraints),
        "finished": data.finished,
    }


def _optuna_trials(data: RunData, trials: Sequence[_Trial]) -> Iterator["FrozenTrial"]:
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    states = {"complete": State.COMPLETE, "infeasible": State.PRUNED, "failed": State.FAIL, "waiting": State.WAITING}
    dimensions = zip(gene_names(data.space.dimensions), data.space.dimensions, strict=True)
    choices = {
        name: CategoricalDistribution([_choice(data, item, gene) for gene in range(len(item.choices))])
        for name, item in dimensions
    }
    for trial in trials:
        frozen = create_trial(
            state=states[trial.state],
            values=[trial.metrics[metric.key] for metric in data.objectives] if trial.state == "complete" else None,
            params=dict(trial.genes),
            distributions={name: choices[name] for name in trial.genes},
            user_attrs=_trial_attributes(data, trial),
            constraints=dict(trial.constraints) if trial.state != "waiting" else None,
        )
        if trial.state != "waiting":
            frozen.datetime_start = frozen.datetime_complete = trial.evaluated.astimezone().replace(tzinfo=None)
        yield frozen


def _trial_attributes(data: RunData, trial: _Trial) -> dict[str, Any]:
    names = ("arch_id", "network_id", "generation", "feasible", "on_front")
    attributes: dict[str, Any] = {name: getattr(trial, name) for name in names}
    if trial.deployment is not None:
        attributes["deployment"] = trial.deployment
    objectives = [metric.key for metric in data.objectives]
    attributes |= {name: value for name, value in trial.metrics.items() if name not in objectives}
    attributes |= {f"{name} interval": list(ends) for name, ends in trial.intervals.items()}
    return attributes | {f"{name} measured": value for name, value in trial.measured.items()}


@contextmanager
def _aside(file: Path) -> Iterator[Path]:
    """Yield another name in the folder of a file, which gets its own when the block succeeds."""
    temporary = file.with_name(f".{secrets.token_hex(6)}.{file.name}")
    try:
        yield temporary
        with file_errors(file, "written"):
            temporary.replace(file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _without_syncs(engine: Any) -> None:
    """Let SQLite not wait for the disk after each trial: the file gets its name when it is complete."""
    from sqlalchemy import event

    def configure(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    event.listen(engine, "connect", configure)
    engine.dispose()  # those that are open were not configured


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna from reporting the study that is made under its temporary name, and names of metrics as new."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
