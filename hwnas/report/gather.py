"""What a run folder holds, read into the values of a report."""

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.config import from_mapping
from hwnas.errors import InputError
from hwnas.metrics import Metric, parse_metric
from hwnas.report.data import Candidates, Member, MetricInfo, Progress, Role, RunData
from hwnas.report.fitted import outside_range
from hwnas.runs import Run
from hwnas.search import files
from hwnas.search.estimate import Estimate, exact
from hwnas.search.front import known_rows, on_front
from hwnas.search.hypervolume import Box, history
from hwnas.search.objective import parse_constraint, parse_objective
from hwnas.search.problem import Problem
from hwnas.search.record import FILE, MetricCheck, SearchRecord, VerifiedMember, read_record
from hwnas.search.same_space import require_same_space
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Genomes

_HASHED = (FILE, files.FILE)
_SPACE_CONFIG = ("image_size", "channels", "num_classes")
_EXTRA = {"macs", "params"}


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What was asked of a search, as its record or, while it goes on, its study says."""

    space: AnySpace
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    confident: bool

    @property
    def problem(self) -> Problem:
        return Problem(
            space=self.space,
            objectives=tuple(parse_objective(text) for text in self.objectives),
            constraints=tuple(parse_constraint(text) for text in self.constraints),
            confident=self.confident,
        )


def gather(path: Path) -> RunData:
    """Read a run of a search, ended or not; the folder of anything else is an error."""
    run = Run.open(path)
    if not (path / files.FILE).is_file():
        hint = "the folder of a search, as hwnas search prints it"
        raise InputError(f"{path} must be the run of a search", got=f"no file {files.FILE}", hint=hint)
    record = read_record(path) if (path / FILE).is_file() else None
    with Study.read(path) as study:
        question = _asked(record) if record is not None else _asked_so_far(study, path)
        doubt = require_same_space(study, question.space, made_by=run.manifest.environment.hwnas)
        candidates, metrics = _candidates(study, question)
        box = study.recall("box")
    progress = _recorded(record) if record is not None else _so_far(candidates, question, box)
    front = _front(path, question.space, candidates, metrics, record)
    return RunData(
        name=path.resolve().name,
        path=path,
        manifest=run.manifest,
        record=record,
        space=question.space,
        doubt=doubt,
        metrics=metrics,
        constraints=question.constraints,
        candidates=candidates,
        front=front,
        history=progress,
        outside=_outside(path, record, question.space, candidates, front),
        hashes={name: _sha256(path / name) for name in _HASHED if (path / name).is_file()},
    )


def _asked(record: SearchRecord) -> _Question:
    return _Question(
        space=_space(record.space, record.space_config),
        objectives=record.objectives,
        constraints=record.constraints,
        confident=record.confidence is not None,
    )


def _asked_so_far(study: Study, path: Path) -> _Question:
    config = study.config
    try:
        return _Question(
            space=_space(config["space"], {name: config[name] for name in _SPACE_CONFIG}),
            objectives=tuple(config["objectives"]),
            constraints=tuple(config.get("constraints") or ()),
            confident=config.get("confidence") is not None,
        )
    except (KeyError, TypeError) as error:
        hint = f"hwnas search --resume {path}"
        raise InputError(f"{path}: the study must say what is searched", got=f"no {error}", hint=hint) from error


def _space(name: str, config: Mapping[str, Any]) -> AnySpace:
    space: AnySpace = SPACES.get(name).adapted(**config)
    return space


def _candidates(study: Study, question: _Question) -> tuple[Candidates, tuple[MetricInfo, ...]]:
    problem = question.problem
    names = [*problem.metrics, *(name for name in study.metrics if name not in problem.metrics)]
    table = study.table(names)
    genomes = _of_width(table.genomes, len(question.space.dimensions))
    metrics = {**table.metrics, **_costs(question.space, genomes, missing=_EXTRA - set(names))}
    scores = problem.scores(metrics)
    known = known_rows(scores.objectives)
    candidates = Candidates(
        genomes=genomes,
        used=question.space.used(genomes),
        metrics=metrics,
        generations=table.generations,
        feasible=scores.feasible | (~known & problem.admits(metrics)),
        on_front=on_front(scores.objectives, feasible=scores.feasible),
    )
    infos = tuple(_info(name, problem, predicted="predicted" in study.source_of(name)) for name in metrics)
    return candidates, infos


def _costs(space: AnySpace, genomes: Genomes, *, missing: Set[str]) -> dict[str, Estimate]:
    """Parameters and MACs of the candidates, where the search did not ask for them."""
    if not missing:
        return {}
    costs = space.costs(genomes)._asdict()
    return {name: exact(costs[name]) for name in sorted(missing)}


def _of_width(genomes: Genomes, width: int) -> Genomes:
    return genomes if len(genomes) else np.zeros((0, width), dtype=np.int16)


def _info(key: str, problem: Problem, *, predicted: bool) -> MetricInfo:
    metric = parse_metric(key)
    quantity = metric.quantity
    objectives, limited = [str(item) for item in problem.objectives], [str(item.metric) for item in problem.constraints]
    role: Role = "objective" if key in objectives else "constraint" if key in limited else "other"
    return MetricInfo(
        key=key,
        name=metric.name,
        unit=quantity.unit,
        where=_where(metric),
        maximised=metric.maximised,
        role=role,
        predicted=predicted,
    )


def _where(metric: Metric) -> str:
    batch = None if metric.batch is None else f"batch {metric.batch}"
    return ", ".join(part for part in (metric.device, metric.runtime, metric.precision, batch) if part)


def _recorded(record: SearchRecord) -> tuple[Progress, ...]:
    return tuple(Progress(candidates=c, evaluations=e, hypervolume=h) for c, e, h in record.history)


def _so_far(candidates: Candidates, question: _Question, box: object) -> tuple[Progress, ...]:
    """The history of a search that goes on, from what its study holds."""
    if box is None or not len(candidates):
        return ()
    scores = question.problem.scores(candidates.metrics)
    evaluated = np.cumsum(known_rows(scores.objectives))
    points = history(scores.objectives, candidates.generations, from_mapping(Box, box), feasible=scores.feasible)
    return tuple(
        Progress(candidates=count, evaluations=int(evaluated[count - 1]), hypervolume=value) for count, value in points
    )


def _front(
    path: Path,
    space: AnySpace,
    candidates: Candidates,
    metrics: Sequence[MetricInfo],
    record: SearchRecord | None,
) -> tuple[Member, ...]:
    rows = _ranked(candidates, metrics)
    genomes = candidates.genomes[rows]
    costs = space.costs(genomes)
    verified, unmeasured = _verified(record), _unmeasured(record)
    kit = {} if record is None else {item.arch_id: item.folder for item in record.kit if item.failure is None}
    members = []
    columns = (rows.tolist(), space.candidates(genomes), costs.params.tolist(), costs.macs.tolist())
    for row, network, params, macs in zip(*columns, strict=True):
        checked = verified.get(network.arch_id)
        members.append(
            Member(
                row=row,
                arch_id=network.arch_id,
                network_id=network.network_id,
                arch=network.arch.to_mapping(),
                params=params,
                macs=macs,
                metrics={metric.key: _check(candidates, metric, row, checked) for metric in metrics},
                violated=() if checked is None else checked.violated,
                failure=None if checked is None else checked.failure,
                measured=checked is not None and checked.failure is None,
                unmeasured=unmeasured if checked is not None else (),
                on_measured_front=None if checked is None else checked.on_front,
                kit=kit.get(network.arch_id),
            )
        )
    return tuple(_in_order(path, members, record))


def _outside(
    path: Path, record: SearchRecord | None, space: AnySpace, candidates: Candidates, front: Sequence[Member]
) -> Mapping[str, Sequence[int]]:
    if record is None or not front:
        return {}
    return outside_range(path, record, space, candidates.genomes[[member.row for member in front]])


def _ranked(candidates: Candidates, metrics: Sequence[MetricInfo]) -> NDArray[np.intp]:
    """The rows of the front, the best of the first objective first."""
    rows = np.flatnonzero(candidates.on_front)
    first = metrics[0]
    values = candidates.metrics[first.key].mean[rows]
    return rows[np.argsort(-values if first.maximised else values, kind="stable")]


def _in_order(path: Path, members: Sequence[Member], record: SearchRecord | None) -> Sequence[Member]:
    """The members as the record lists them; a record of another study is an error."""
    if record is None:
        return members
    known = {member.arch_id: member for member in members}
    missing = [arch_id for arch_id in record.front if arch_id not in known]
    if missing:
        message = f"{path}: {FILE} and {files.FILE} must be of one search"
        raise InputError(message, got=f"{len(missing)} networks on the front that the study's front has not")
    return [known[arch_id] for arch_id in record.front]


def _verified(record: SearchRecord | None) -> dict[str, VerifiedMember]:
    verification = None if record is None else record.verification
    if verification is None or not verification.some:
        return {}
    return {member.arch_id: member for member in verification.members}


def _unmeasured(record: SearchRecord | None) -> tuple[str, ...]:
    verification = None if record is None else record.verification
    return () if verification is None else tuple(verification.unmeasured)


def _check(candidates: Candidates, metric: MetricInfo, row: int, checked: VerifiedMember | None) -> MetricCheck:
    mean, lower, upper = (_known(values[row]) for values in candidates.metrics[metric.key])
    found = None if checked is None else checked.metrics.get(metric.key)
    measured = None if found is None else found.measured
    return MetricCheck(
        predicted=mean,
        lower=lower if metric.predicted else None,
        upper=upper if metric.predicted else None,
        measured=measured,
        measured_lower=None if found is None else found.measured_lower,
        measured_upper=None if found is None else found.measured_upper,
        stable=None if found is None else found.stable,
        verdict="" if found is None else found.verdict,
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read", got=error.strerror) from error
