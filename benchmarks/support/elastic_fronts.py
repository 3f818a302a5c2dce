"""Fronts of the benchmark of elastic networks: search on held-out images, and latency that is measured side by side."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.support.elastic_trainings import Trainings
from hwnas.search.engine import Nsga2
from hwnas.search.genome_set import GenomeSet
from hwnas.search.operators import Variation, sample_levels
from hwnas.search.pareto import on_front
from hwnas.search.problem import PopulationScores
from hwnas.search.region import Region
from hwnas.space.space import AnySpace, Genomes
from hwnas.supernet.matmul import fast_matmul
from hwnas.train.evaluation import make_evaluator

BATCH, ROUNDS, SAMPLE, POPULATION = 16, 15, 60, 24
LEVELS = (0.4, 0.525, 0.65, 0.775, 0.9)
"""Latencies that fronts are compared at, as shares of the original's."""
_RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """Linear in the genes, in what they skip and in the MACs, fitted to measured networks."""

    space: AnySpace
    weights: Any
    error: float
    """Median relative error on networks that it was not fitted to."""

    def __call__(self, genomes: Genomes) -> Any:
        """Predict milliseconds."""
        return _features(self.space, genomes) @ self.weights


def fitted_latency(supernet: Any, *, seed: int) -> LatencyModel:
    """Measure random networks and fit a model to them."""
    space = supernet.space
    genomes = sample_levels(_everything(space), np.random.default_rng(seed), SAMPLE)
    archs = list(space.decode(genomes))
    modules = {str(index): supernet.subnet(arch).eval() for index, arch in enumerate(archs)}
    measured = latencies({name: (module, space.config.image_size) for name, module in modules.items()}, seed=seed)
    values = np.array([measured[str(index)] for index in range(len(archs))])
    features = _features(space, genomes)
    fitted = np.arange(len(values)) % 4 > 0
    error = np.abs(features @ _solved(features[fitted], values[fitted]) / values - 1)[~fitted]
    return LatencyModel(space=space, weights=_solved(features, values), error=float(np.median(error)))


def latencies(modules: Mapping[str, tuple[nn.Module, int]], *, seed: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Median CPU milliseconds of a batch, all networks in turn, in another order each round."""
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in modules}
    images = {size: torch.randn(BATCH, 3, size, size) for _, size in modules.values()}
    with torch.inference_mode(), fast_matmul():
        for round_ in range(rounds + 2):
            for name in rng.permutation(list(modules)):
                module, size = modules[name]
                began = time.process_time()
                module(images[size])
                if round_ >= 2:
                    times[name].append(1e3 * (time.process_time() - began))
    return {name: float(np.median(values)) for name, values in times.items()}


def searched(trainings: Trainings, kind: str, seed: int) -> dict[str, Any]:
    """Search a supernet for accuracy on held-out images against predicted latency, and measure the front."""
    supernet = trainings.supernet(kind, seed)
    space, evaluations = supernet.space, trainings.options.evaluations
    latency = fitted_latency(supernet, seed=seed)
    evaluator = make_evaluator(supernet, trainings.data, checkpoint_id=f"{kind} {seed}")
    region = _everything(space)
    initial = space.repair(
        np.concatenate(
            [
                space.encode([space.largest(), space.smallest()]),
                sample_levels(region, np.random.default_rng(seed), 2 * POPULATION - 2),
            ]
        )
    )
    engine = Nsga2(
        region=region,
        initial=np.unique(initial, axis=0),
        variation=Variation(mutations=1.0),
        seen=GenomeSet(),
        population=POPULATION,
        seed=seed,
    )
    rows: list[Genomes] = []
    values: list[Any] = []
    with fast_matmul():
        while sum(map(len, rows)) < evaluations:
            genomes = engine.ask()
            found = [accuracy.top1 for accuracy in evaluator.evaluate(space.decode(genomes))]
            objectives = np.stack([-np.array(found), latency(genomes)], axis=1)
            engine.tell(PopulationScores(objectives, np.zeros((len(genomes), 0))))
            rows.append(genomes)
            values.append(objectives)
    genomes, objectives = np.concatenate(rows), np.concatenate(values)
    front = on_front(objectives)
    return {
        "latency_error": latency.error,
        "evaluated": len(genomes),
        "genomes": genomes[front].tolist(),
        "heldout": (-objectives[front, 0]).tolist(),
        "predicted_ms": objectives[front, 1].tolist(),
    }


def compared(trainings: Trainings, seed: int, kinds: Sequence[str]) -> dict[str, Any]:
    """Measure the latency of both fronts and of all other networks together, and test what is chosen at each level."""
    modules = trainings.modules(seed)
    members: dict[str, list[str]] = {}
    heldout: dict[str, float] = {}
    for kind in kinds:
        supernet, front = trainings.supernet(kind, seed), trainings.done[f"front {kind} {seed}"]
        archs = supernet.space.decode(np.array(front["genomes"], dtype=np.int16))
        members[kind] = [f"{kind} {index}" for index in range(len(archs))]
        for name, arch, accuracy in zip(members[kind], archs, front["heldout"], strict=True):
            modules[name] = (supernet.subnet(arch).eval(), trainings.shape[1])
            heldout[name] = accuracy
    measured = latencies(modules, seed=seed)
    levels = {f"{share:.1%}": share * measured["original"] for share in LEVELS}
    levels |= {name: measured[name] for name in trainings.modules(seed) if name != "original"}
    tested: dict[str, float] = {}
    chosen: dict[str, dict[str, Any]] = {}
    for level, most in levels.items():
        chosen[level] = {"ms": most}
        for kind in kinds:
            allowed = [name for name in members[kind] if measured[name] <= 1.005 * most]
            if not allowed:
                continue
            name = max(allowed, key=heldout.__getitem__)
            tested[name] = tested.get(name) or trainings.tested(modules[name][0])
            chosen[level][kind] = {"ms": measured[name], "test": tested[name], "heldout": heldout[name]}
    return {"original_ms": measured["original"], "levels": chosen}


def _everything(space: AnySpace) -> Region:
    rows = space.encode([space.largest()])
    return Region(space=space, free=np.ones(rows.shape[1], dtype=np.bool_), bases=rows)


def _features(space: AnySpace, genomes: Genomes) -> Any:
    """One, the MACs, and of each gene its share of the largest choice, and 1 if it is zero."""
    columns = [np.ones(len(genomes)), space.costs(genomes).macs / space.costs(space.encode([space.largest()])).macs[0]]
    for column, dimension in enumerate(space.dimensions):
        values = np.array(dimension.choices, dtype=float)[genomes[:, column]]
        columns += [values / max(dimension.choices), (values == 0).astype(float)]
    return np.stack(columns, axis=1)


def _solved(features: Any, values: Any) -> Any:
    return np.linalg.solve(
        features.T @ features + _RIDGE * len(values) * np.eye(features.shape[1]), features.T @ values
    )
