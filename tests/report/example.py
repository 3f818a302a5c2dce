"""A made-up search run: the real study and record of a search that nobody ran, with options for every case."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.config import to_mapping
from hwnas.metrics import parse_metric
from hwnas.predict.card import Card, Coverage, CurvePoint, FittedData, HeldOut, Ranked, card_json
from hwnas.predict.metrics import scores as predictor_scores
from hwnas.predict.selection import Protocol
from hwnas.runs import Run
from hwnas.search.ledger import Budget
from hwnas.search.objective import Estimate, exact, parse_constraint
from hwnas.search.pareto import HypervolumeBounds, hypervolume_history, make_bounds, on_front
from hwnas.search.problem import Problem
from hwnas.search.record import (
    ExportedWinner,
    MetricCheck,
    ReferenceNetwork,
    SearchRecord,
    SupernetHealth,
    Verification,
    VerifiedMember,
    VerifiedProfile,
    read_record,
    write_record,
)
from hwnas.search.spec import PostSearch, PredictorSpec, SearchSpec, SupernetSpec, space_digest
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.space import AnySpace, Genomes

DEVICE = "amd-epyc-9b45-1c-avx512bf16"
LATENCY = f"latency_ms@{DEVICE}/onnxruntime/fp32/b1"
THROUGHPUT = f"throughput@{DEVICE}/onnxruntime/fp32/b8"
MEMORY = f"memory_mb@{DEVICE}/onnxruntime/fp32/b1"
OBJECTIVES = ("accuracy", "macs", LATENCY)


@dataclass(frozen=True, kw_only=True)
class Example:
    """What kind of run is made."""

    space: str = "autoformer-tiny"
    count: int = 300
    objectives: tuple[str, ...] = OBJECTIVES
    constraints: tuple[str, ...] = ()
    seed: int = 0
    verified: bool = True
    predictor: bool = True
    finished: bool = True
    references: bool = True
    unknown_share: float = 0.0
    """Candidates whose accuracy could not be had."""
    ties: bool = False
    """Whether every value is rounded so much that many networks are equal."""
    label: str = ""
    """A text that is put wherever a user may have one."""

    @property
    def metrics(self) -> tuple[str, ...]:
        named = [str(parse_constraint(text).metric) for text in self.constraints]
        return tuple(dict.fromkeys([*self.objectives, *named]))


def make_run(path: Path, example: Example | None = None) -> Path:
    """Write a run folder."""
    example = example or Example()
    space: AnySpace = SPACES.get(example.space).adapted(num_classes=10)
    rng = np.random.default_rng(example.seed)
    genomes = _distinct(space, rng, example.count)
    metrics = {name: _estimate(name, space, genomes, rng, example) for name in example.metrics}
    generations = np.arange(len(genomes)) // 50
    spec = _spec(example, space)
    Run.create(
        path,
        command=["hwnas", "search", "--space", example.space, "--data", example.label or "digits-clutter"],
        config=spec,
        seeds={"search": example.seed},
    )
    problem = spec.make_problem(space)
    bounds = make_bounds(problem.objectives, metrics) if len(genomes) else None
    with Study.create(path, config=spec.study_config) as study:
        if bounds is not None:
            study.remember("bounds", to_mapping(bounds))
        _fill(study, problem, genomes, metrics, generations)
    if example.finished:
        _finish(
            path,
            example,
            spec,
            problem,
            bounds or HypervolumeBounds(ideal=(0.0,), reference=(1.0,)),
            metrics,
            genomes,
            generations,
        )
    return path


def add_training(run: Path, *, losses: Sequence[float]) -> Path:
    """Write the training of a run's supernet beside it, and name it in the record."""
    training = run.parent / f"{run.name}-training"
    training.mkdir()
    (training / "supernet.safetensors").write_bytes(b"weights")
    rows = [json.dumps({"step": step, "epoch": 0, "loss": loss}) + "\n" for step, loss in enumerate(losses, start=1)]
    (training / "metrics.jsonl").write_text("".join(rows))
    record = read_record(run)
    assert record.spec.supernet is not None
    digest = hashlib.sha256(b"weights").hexdigest()[:24]
    supernet = replace(record.spec.supernet, path=training, digest=digest)
    write_record(run, replace(record, spec=replace(record.spec, supernet=supernet)))
    return training


def _spec(example: Example, space: AnySpace) -> SearchSpec:
    device_metrics = [name for name in example.metrics if "@" in name and example.predictor]
    return SearchSpec(
        space=example.space,
        image_size=space.config.image_size,
        channels=3,
        num_classes=10,
        space_digest=space_digest(space),
        objectives=example.objectives,
        constraints=example.constraints,
        interval_confidence=0.9 if example.predictor else None,
        strategy="rounds",
        settings={},
        budget=Budget(evaluations=max(example.count, 1)),
        seed=example.seed,
        predictors=tuple(
            PredictorSpec(metric=name, path=Path(f"predictors/{DEVICE}/x/latency_ms"), card_sha256="0" * 64)
            for name in device_metrics
        ),
        supernet=SupernetSpec(
            path=Path(f"runs/train-{example.space}{example.label}"),
            digest="sha256:1f2e3d",
            data_name=example.label or "digits-clutter",
            data_fingerprint="f",
            num_images=1000,
            compute="cpu",
            threads=1,
            matmul_backend="default",
        ),
        versions=("hwnas==0.1",),
        post_search=PostSearch(),
        notes=(example.label,),
    )


def _distinct(space: AnySpace, rng: np.random.Generator, count: int) -> Genomes:
    rows = space.sample(rng, int(1.2 * count) + 20)
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)][:count]


def _estimate(name: str, space: AnySpace, genomes: Genomes, rng: np.random.Generator, example: Example) -> Estimate:
    costs = space.costs(genomes)
    noise = rng.normal(size=len(genomes))
    kind = parse_metric(name).name
    latency = 1e-8 * costs.macs + 2.0 + 0.05 * noise
    values = {
        "accuracy": 0.62 + 0.05 * np.log(costs.params / 4e6) + 0.008 * noise,
        "macs": costs.macs,
        "params": costs.params,
        "latency_ms": latency,
        "throughput": 8e3 / (7 * latency),
        "memory_mb": 60 - 2e-6 * costs.params + noise,
        "energy_j": 0.04 * latency,
    }[kind].astype(np.float64)
    if example.ties:
        values = np.floor(4 * values / max(values.max(), 1e-9)) + 1
        values = values / 10 if kind == "accuracy" else values
    if kind == "accuracy":
        values[rng.random(len(values)) < example.unknown_share] = np.nan
    if kind in ("accuracy", "macs", "params") or not example.predictor:
        return exact(values)
    return Estimate(values, 0.97 * values, 1.03 * values)


def _fill(
    study: Study,
    problem: Problem,
    genomes: Genomes,
    metrics: Mapping[str, Estimate],
    generations: NDArray[np.intp],
) -> None:
    cheap = [name for name in metrics if name != "accuracy"]
    sources = {name: "analytic" if name in ("macs", "params") else "predicted" for name in cheap}
    admitted = problem.admits(dict(metrics)) if len(genomes) else np.zeros(0, dtype=np.bool_)
    for generation in np.unique(generations).tolist():
        rows = generations == generation
        study.add(
            genomes[rows],
            generation=generation,
            metrics={name: metrics[name].rows(rows) for name in cheap},
            sources=sources,  # type: ignore[arg-type]
        )
    if "accuracy" in metrics:
        _judge(study, problem.space, genomes, metrics["accuracy"].mean, admitted)


def _judge(
    study: Study, space: AnySpace, genomes: Genomes, accuracy: NDArray[np.float64], admitted: NDArray[np.bool_]
) -> None:
    """As `Study.store_value` does, but all at once: a transaction for each of thousands takes its time."""
    connection = study._connection
    rows = np.flatnonzero(admitted).tolist()
    study._insert("accuracy", "supernet", rows, exact(accuracy[rows]))
    archs = space.decode(genomes[rows[:200]])
    pairs = [(space.arch_id(arch), row) for arch, row in zip(archs, rows, strict=False)]
    connection.executemany("UPDATE candidates SET arch_id = ? WHERE id = ?", pairs)


def _finish(
    path: Path,
    example: Example,
    spec: SearchSpec,
    problem: Problem,
    bounds: HypervolumeBounds,
    metrics: Mapping[str, Estimate],
    genomes: Genomes,
    generations: NDArray[np.intp],
) -> None:
    space = problem.space
    scores = problem.scores(dict(metrics)) if len(genomes) else None
    rows = np.zeros(0, dtype=np.intp)
    points: list[tuple[int, float]] = []
    if scores is not None:
        rows = np.flatnonzero(on_front(scores.objectives, feasible=scores.feasible))
        rows = rows[np.argsort(scores.objectives[rows, 0], kind="stable")]
        points = hypervolume_history(scores.objectives, generations, bounds, feasible=scores.feasible)
    front = tuple(space.arch_id(arch) for arch in space.decode(genomes[rows]))
    members = _members(example, space, metrics, genomes, rows) if example.verified else ()
    device_metrics = [name for name in example.metrics if "@" in name]
    record = SearchRecord(
        created_utc="2026-11-21T15:00:00+00:00",
        spec=spec,
        stop="evaluations",
        evaluations=len(genomes),
        candidates=len(genomes),
        satisfiable="constraints can be met: 41.0% of 2,000 sampled networks do",
        elapsed_s=812.5,
        bounds=bounds,
        history=tuple((count, count, value) for count, value in points),
        random_history=tuple((count, count, 0.96 * value) for count, value in points),
        supernet_health=SupernetHealth(smallest=0.553, largest=0.702),
        predictor_cards={item.metric: _predictor_card(item.metric, example) for item in spec.predictors},
        front=front,
        measured_front=tuple(member.arch_id for member in members if member.on_front) if example.verified else None,
        reference_networks=_references(example, device_metrics),
        verification=_verification(members, device_metrics) if example.verified else None,
        winners=_winners(space, genomes, rows),
        seeds=None,
        notes=(f"accuracy is that of shared weights {example.label}".strip(),),
    )
    write_record(path, record)


def _members(
    example: Example,
    space: AnySpace,
    metrics: Mapping[str, Estimate],
    genomes: Genomes,
    rows: Sequence[int] | NDArray[np.intp],
) -> tuple[VerifiedMember, ...]:
    members = []
    for place, row in enumerate(int(row) for row in rows):
        (arch,) = space.decode(genomes[row : row + 1])
        checks = {name: _checked(metrics[name], row, place) for name in metrics if "@" in name}
        failed = place == 3
        members.append(
            VerifiedMember(
                arch_id=space.arch_id(arch),
                network_id=space.network_id(arch),
                metrics={} if failed else checks,
                violated=("latency_ms<=99",) if place == 4 else (),
                failure=f"time-limit: the worker was ended {example.label}" if failed else None,
                on_front=not failed and place % 5 != 2,
            )
        )
    return tuple(members)


def _checked(estimate: Estimate, row: int, place: int) -> MetricCheck:
    mean, lower, upper = (float(values[row]) for values in estimate)
    measured = mean * (1 + 0.02 * np.sin(place))
    return MetricCheck(
        predicted=mean,
        lower=lower,
        upper=upper,
        measured=measured,
        measured_lower=0.995 * measured,
        measured_upper=1.005 * measured,
        stable=place % 7 != 6,
        verdict="" if place % 7 != 6 else "the runs spread by 6.1 %",
    )


def _verification(members: tuple[VerifiedMember, ...], metrics: Sequence[str]) -> Verification:
    profile = VerifiedProfile(
        path=f"profiles/{DEVICE}/autoformer-tiny-onnxruntime-fp32-b1-t1",
        batch=1,
        noise_floor=0.0071,
        num_networks=len(members) + 2,
        num_unstable=sum(1 for member in members for check in member.metrics.values() if not check.stable),
        num_failed=sum(member.failure is not None for member in members),
        drift=0.012,
        problems=("12 networks tell a noise floor",),
    )
    return Verification(
        status="verified",
        reason="",
        device=DEVICE,
        runtime="onnxruntime",
        profiles=(profile,),
        members=members,
        mape=dict.fromkeys(metrics, 0.0123),
        spearman=dict.fromkeys(metrics, 0.981),
        kendall=dict.fromkeys(metrics, 0.902),
        coverage=dict.fromkeys(metrics, 0.93),
        confidence=0.9,
    )


def _printable(text: str) -> str:
    """The text without what a card may not have."""
    return "".join(filter(str.isprintable, text))


def _predictor_card(name: str, example: Example) -> dict[str, Any]:
    metric = parse_metric(name)
    rng = np.random.default_rng(7)
    measured = rng.uniform(8, 40, size=80)
    predicted = measured * (1 + 0.02 * rng.normal(size=80))
    card = Card(
        created_utc="2026-11-21T14:00:00+00:00",
        metric=metric,
        data=FittedData(sources=(f"profiles/{_printable(example.label)}",), num_rows=100, num_networks=80),
        protocol=Protocol(),
        model="analytic",
        ranking=(Ranked(model="analytic", scores=predictor_scores(predicted, measured)),),
        coverage=tuple(Coverage(confidence=level, share=level - 0.01) for level in (0.5, 0.8, 0.9, 0.95)),
        noise_floor=0.0085,
        learning_curve=(CurvePoint(count=20, mape=0.03), CurvePoint(count=80, mape=0.016)),
        held_out=tuple(
            HeldOut(measured=float(m), predicted=float(p)) for m, p in zip(measured, predicted, strict=True)
        ),
        environment={"onnxruntime": "1.23.2"},
    )
    return dict(card_json(card))


def _references(example: Example, metrics: Sequence[str]) -> tuple[ReferenceNetwork, ...]:
    if not example.references:
        return ()
    values = {"latency_ms": 14.2, "throughput": 80.0, "memory_mb": 41.0, "energy_j": 0.5}
    tiny = {name: values[parse_metric(name).name] for name in metrics}
    first = ReferenceNetwork(
        name="DeiT-Ti", macs=1_258_229_760, params=5_526_346, metrics=tiny, measured=example.verified, accuracy=None
    )
    double = {name: value / 2.4 if name.startswith("throughput") else 2.4 * value for name, value in tiny.items()}
    return first, replace(first, name="DeiT-S", macs=4_608_338_304, params=21_669_514, metrics=double)


def _winners(space: AnySpace, genomes: Genomes, rows: NDArray[np.intp]) -> tuple[ExportedWinner, ...]:
    return tuple(
        ExportedWinner(
            arch_id=space.arch_id(arch),
            network_id=space.network_id(arch),
            folder="winners/best",
            why="the most accurate",
            files=("network.onnx",),
            test_accuracy=None,
            failure=None,
        )
        for arch in space.decode(genomes[rows[:1]])
    )
