"""Read the folder of a search run into the data of a report."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwnas.config import from_mapping
from hwnas.errors import HwnasError, InputError
from hwnas.files import file_sha256
from hwnas.metrics import Deployment, parse_metric
from hwnas.predict.card import card_from_json
from hwnas.report.data import COSTS, Candidates, HistoryPoint, Member, MetricInfo, Role, RunData
from hwnas.report.training import training_curves
from hwnas.runs import Run
from hwnas.search import study_files
from hwnas.search.objective import Estimate, exact
from hwnas.search.pareto import HypervolumeBounds, hypervolume_history, known_rows, on_front
from hwnas.search.problem import Problem
from hwnas.search.record import RECORD_FILE, MetricCheck, SearchRecord, Verification, VerifiedMember, read_record
from hwnas.search.spec import PredictorSpec, SearchSpec, read_spec
from hwnas.search.study import Study
from hwnas.space.deployed import DeployedSpace, count_evaluations
from hwnas.space.space import AnySpace, Genomes, Mask

_HASHED = (RECORD_FILE, study_files.STUDY_FILE)
_MAX_VALUE = 1e18
"""Largest value of a metric. Figures and ratios of larger ones overflow."""


def gather(path: Path, *, evidence: bool = True, seed_folder: Path | None = None) -> RunData:
    """Read a finished or unfinished search run.

    Args:
        path: The run.
        evidence: Also read what lies outside of the study: hashes of files, trainings and fitted ranges of predictors.
        seed_folder: The folder of another seed of the run, whose record is then left out; None: the run itself.

    Raises:
        InputError: The folder is not the run of a search, or one of its files is invalid.
    """
    run = Run.open(path)
    if not (path / study_files.STUDY_FILE).is_file():
        hint = "the folder of a search, as hwnas search prints it"
        raise InputError(f"{path} must be the run of a search", got=f"no file {study_files.STUDY_FILE}", hint=hint)
    record = read_record(path) if seed_folder is None and (path / RECORD_FILE).is_file() else None
    spec = record.spec if record is not None else read_spec(run)
    space = spec.load_space(path)
    problem = spec.make_problem(space)
    folder = seed_folder or path
    with Study.read(folder) as study:
        candidates, metrics = _candidates(study, problem, source=folder / study_files.STUDY_FILE)
        bounds = study.recall("bounds")
    if record is not None:
        history = tuple(HistoryPoint(candidates=c, evaluations=e, hypervolume=h) for c, e, h in record.history)
    else:
        history = _computed_history(folder, candidates, problem, bounds)
    front = _front(path, space, candidates, metrics, record)
    rows = [member.row for member in front]
    cards = {} if record is None else record.predictor_cards
    return RunData(
        name=path.resolve().name,
        path=path,
        manifest=run.manifest,
        record=record,
        space=space,
        metrics=metrics,
        constraints=spec.constraints,
        candidates=candidates,
        front=front,
        history=history,
        outside={} if record is None or not evidence else outside_range(path, spec, space, candidates.genomes[rows]),
        cards={
            metric: card_from_json(card, source=f"{path / RECORD_FILE}: predictor_cards.{metric}")
            for metric, card in cards.items()
        },
        hashes={name: file_sha256(path / name) for name in _HASHED if evidence and (path / name).is_file()},
        trainings=training_curves(path, spec, record) if evidence else (),
    )


def recorded_bounds(folder: Path) -> HypervolumeBounds | None:
    """Read the bounds of the hypervolume of a study; None: its search has not begun."""
    with Study.read(folder) as study:
        bounds = study.recall("bounds")
    return None if bounds is None else _parse_bounds(folder, bounds)


def _parse_bounds(folder: Path, bounds: object) -> HypervolumeBounds:
    return from_mapping(HypervolumeBounds, bounds, where=f"{folder / study_files.STUDY_FILE}: bounds")


def _candidates(study: Study, problem: Problem, *, source: Path) -> tuple[Candidates, tuple[MetricInfo, ...]]:
    names = [*problem.metrics, *(name for name in study.parsed_metrics() if name not in problem.metrics)]
    table = study.table(names, space=problem.space)
    genomes = table.genomes
    metrics = {**table.metrics, **_costs(problem.space, genomes, missing={*COSTS} - set(names))}
    scores = problem.scores(metrics)
    known = known_rows(scores.objectives)
    candidates = Candidates(
        genomes=genomes,
        used=problem.space.used(genomes),
        metrics=metrics,
        generations=table.generations,
        feasible=scores.feasible | (~known & problem.admits(metrics)),
        on_front=on_front(scores.objectives, feasible=scores.feasible),
    )
    largest = {name: float(np.nanmax(np.abs(values.mean), initial=0.0)) for name, values in metrics.items()}
    for name, value in largest.items():
        if value > _MAX_VALUE:
            raise InputError(f"{source}: values of {name} must be at most {_MAX_VALUE:g}")
    infos = tuple(
        _info(name, problem, predicted="predicted" in study.source_of(name), largest=value)
        for name, value in largest.items()
    )
    return candidates, infos


def _costs(space: AnySpace, genomes: Genomes, *, missing: Set[str]) -> dict[str, Estimate]:
    """Compute the parameters and MACs of the candidates that the study does not contain."""
    if not missing:
        return {}
    costs = space.costs(genomes)._asdict()
    return {name: exact(costs[name]) for name in sorted(missing)}


def _info(key: str, problem: Problem, *, predicted: bool, largest: float) -> MetricInfo:
    metric = parse_metric(key)
    quantity = metric.quantity
    objectives, limited = [str(item) for item in problem.objectives], [str(item.metric) for item in problem.constraints]
    role: Role = "objective" if key in objectives else "constraint" if key in limited else "other"
    deployment = metric.deployment
    batch = None if deployment.batch is None else f"batch {deployment.batch}"
    threads = None if deployment.threads is None else f"threads {deployment.threads}"
    parts = (deployment.device, deployment.runtime, deployment.precision, batch, threads)
    return MetricInfo(
        key=key,
        name=metric.name,
        unit=quantity.unit,
        where=", ".join(part for part in parts if part),
        maximised=metric.maximised,
        role=role,
        predicted=predicted,
        largest=largest,
    )


def _computed_history(path: Path, candidates: Candidates, problem: Problem, bounds: object) -> tuple[HistoryPoint, ...]:
    """Compute the history of an unfinished search from its study."""
    if bounds is None or not len(candidates):
        return ()
    box = _parse_bounds(path, bounds)
    if {len(box.ideal), len(box.reference)} != {len(problem.objectives)}:
        message = f"{path / study_files.STUDY_FILE}: bounds must have one value for each objective"
        raise InputError(message, got=f"{len(box.ideal)} and {len(box.reference)}")
    scores = problem.scores(candidates.metrics)
    evaluated = count_evaluations(problem.space, candidates.genomes, known_rows(scores.objectives))
    points = hypervolume_history(scores.objectives, candidates.generations, box, feasible=scores.feasible)
    return tuple(
        HistoryPoint(candidates=count, evaluations=int(evaluated[count - 1]), hypervolume=value)
        for count, value in points
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
    verification = None if record is None else record.verification
    measured = () if verification is None or not verification.has_measurements else verification.members
    verified = {member.arch_id: member for member in measured}
    exported_to = (
        {} if record is None else {item.arch_id: item.folder for item in record.winners if item.failure is None}
    )
    members = []
    columns = (rows.tolist(), space.candidates(genomes), costs.params.tolist(), costs.macs.tolist())
    for row, network, params, macs in zip(*columns, strict=True):
        checked = verified.get(network.id)
        unmeasured = () if verification is None or checked is None else _unmeasured(verification, network.deployment)
        members.append(
            Member(
                row=row,
                arch_id=network.id,
                network_id=network.network_id,
                deployment=None if network.deployment is None else str(network.deployment),
                arch=network.arch.to_mapping(),
                params=params,
                macs=macs,
                metrics={metric.key: _check(candidates, metric, row, checked) for metric in metrics},
                violated=() if checked is None else checked.violated,
                failure=None if checked is None else checked.failure,
                measured=checked is not None and checked.failure is None and bool(checked.metrics),
                unmeasured=unmeasured,
                on_measured_front=None if checked is None else checked.on_front,
                exported_to=exported_to.get(network.id),
                float_accuracy=_float_accuracy(record, network.network_id, candidates, row),
            )
        )
    return tuple(_in_order(path, members, record))


def _float_accuracy(record: SearchRecord | None, network_id: str, candidates: Candidates, row: int) -> float | None:
    """Return the accuracy of a network in float32 if the record has it for those whose precision changes accuracy."""
    if record is None or not record.float_accuracies:
        return None
    # A network that is not in the record runs in no precision that changes accuracy: its own is that in float32.
    return record.float_accuracies.get(network_id, _known(candidates.metrics["accuracy"].mean[row]))


def _unmeasured(verification: Verification, deployment: Deployment | None) -> tuple[str, ...]:
    """Return the metrics of a network that were not measured although others were."""
    return tuple(
        text
        for text in verification.unmeasured
        if deployment is None or deployment.matches(parse_metric(text).deployment)
    )


def _ranked(candidates: Candidates, metrics: Sequence[MetricInfo]) -> NDArray[np.intp]:
    """Return the rows of the front, sorted by the first objective, best first."""
    rows = np.flatnonzero(candidates.on_front)
    first = metrics[0]
    values = candidates.metrics[first.key].mean[rows]
    return rows[np.argsort(-values if first.maximised else values, kind="stable")]


def _in_order(path: Path, members: Sequence[Member], record: SearchRecord | None) -> Sequence[Member]:
    """Return the members in the order of the record, which must be of the same study."""
    if record is None:
        return members
    known = {member.arch_id: member for member in members}
    missing = [candidate_id for candidate_id in record.front if candidate_id not in known]
    if missing:
        message = f"{path}: {RECORD_FILE} and {study_files.STUDY_FILE} must be of one search"
        raise InputError(message, got=f"{len(missing)} networks on the front that the study's front has not")
    return [known[candidate_id] for candidate_id in record.front]


def _check(candidates: Candidates, metric: MetricInfo, row: int, checked: VerifiedMember | None) -> MetricCheck:
    mean, lower, upper = (_known(values[row]) for values in candidates.metrics[metric.key])
    check = None if checked is None else checked.metrics.get(metric.key)
    return MetricCheck(
        predicted=mean,
        lower=lower if metric.predicted else None,
        upper=upper if metric.predicted else None,
        measured=None if check is None else check.measured,
        measured_lower=None if check is None else check.measured_lower,
        measured_upper=None if check is None else check.measured_upper,
        stable=None if check is None else check.stable,
        verdict="" if check is None else check.verdict,
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def outside_range(run: Path, spec: SearchSpec, space: AnySpace, front: Genomes) -> Mapping[str, Sequence[int]]:
    """Find the networks of a front outside the fitted ranges of the predictors that a search used.

    A predictor is looked up at the path that the search recorded, relative to the working folder and to the run.

    Returns:
        By metric, the indices in the front. Metrics whose predictor is missing or has changed are left out.
    """
    outside: dict[str, Sequence[int]] = {}
    for used in spec.predictors if len(front) else ():
        rows = np.arange(len(front))
        deployment = spec.deployment_of(parse_metric(used.metric))
        if deployment is not None and isinstance(space, DeployedSpace):
            rows = np.flatnonzero(space.in_deployment(front, deployment))
        tries = (_outside_of(folder / used.path, used, space, front[rows]) for folder in (Path(), run))
        mask = next((mask for mask in tries if mask is not None), None)
        if mask is not None:
            outside[used.metric] = tuple(rows[mask].tolist())
    return outside


def _outside_of(folder: Path, used: PredictorSpec, space: AnySpace, genomes: Genomes) -> Mask | None:
    from hwnas.predict.card import CARD
    from hwnas.predict.predictor import Predictor

    if not (folder / CARD).is_file():
        return None
    try:
        predictor = Predictor.load(folder)
        if predictor.card.card_sha256 != used.card_sha256:
            return None
        batch = parse_metric(used.metric).deployment.fixed_batch
        if not len(genomes):
            return np.zeros(0, dtype=np.bool_)
        return predictor.predict(space.workloads(genomes), batch=batch).outside
    except HwnasError:
        # The page says that it could not be checked; the figures of the search do not depend on it.
        return None
