"""The whole chain once, at toy size: space, supernet, ONNX timing, fit, NSGA-II, CSV.

Space and supernet are real. What is not there yet is stood in for by the simplest thing that has the same place: each
stand-in leaves this file when its package comes.
"""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from sklearn.linear_model import LinearRegression
from torch import nn

from hwnas.runs import write_atomic
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from hwnas.supernet.supernet import Supernet

SPACE = SPACES.get("autoformer-micro")
AnySupernet = Supernet[Any, Any, Any]
COLUMNS = ("arch_id", "accuracy", "macs", "latency_ms")


def latency_ms(network: nn.Module, images: torch.Tensor, path: Path) -> float:
    """Stand-in for the campaign: the median of a few runs in onnxruntime, after a check of the outputs."""
    torch.onnx.export(network.eval(), (images,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    (logits,) = session.run(None, feed)
    np.testing.assert_allclose(logits, network(images).detach().numpy(), atol=1e-4)
    samples = []
    for _ in range(20):
        start = time.perf_counter()
        session.run(None, feed)
        samples.append(1e3 * (time.perf_counter() - start))
    return float(np.median(samples))


class Choose(Problem):  # type: ignore[misc]
    """Stand-in for the search: accuracy, MACs and predicted latency of a population."""

    def __init__(self, supernet: AnySupernet, predictor: LinearRegression) -> None:
        upper = [len(dimension.choices) - 1 for dimension in SPACE.dimensions]
        super().__init__(n_var=len(upper), n_obj=3, xl=0, xu=np.array(upper), vtype=int)
        self.supernet, self.predictor = supernet, predictor

    def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = objectives(SPACE.repair(x), self.supernet, self.predictor)


def objectives(genomes: NDArray[Any], supernet: AnySupernet, predictor: LinearRegression) -> NDArray[np.float64]:
    images, labels = held_out()
    macs = SPACE.costs(genomes).macs
    with torch.no_grad():
        hits = [(supernet(images, arch).argmax(1) == labels).float().mean() for arch in SPACE.decode(genomes)]
    return np.column_stack([-np.array(hits), macs, predictor.predict(macs[:, None])])


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 3, 32, 32, generator=generator), torch.randint(10, (16,), generator=generator)


def test_the_chain_ends_in_a_front(tmp_path: Path) -> None:
    torch.manual_seed(0)
    supernet = make_supernet(SPACE).eval()

    profiled = SPACE.sample(np.random.default_rng(0), 4)
    images = held_out()[0][:1]
    archs = SPACE.decode(profiled)
    times = [latency_ms(supernet.subnet(arch), images, tmp_path / f"{SPACE.arch_id(arch)}.onnx") for arch in archs]
    predictor = LinearRegression(positive=True).fit(SPACE.costs(profiled).macs[:, None], times)

    operators = {"crossover": SBX(repair=RoundingRepair()), "mutation": PM(repair=RoundingRepair())}
    algorithm = NSGA2(pop_size=12, sampling=IntegerRandomSampling(), **operators)
    result = minimize(Choose(supernet, predictor), algorithm, ("n_gen", 4), seed=0)
    front = np.unique(SPACE.repair(result.X), axis=0)
    save_front(tmp_path / "front.csv", front, objectives(front, supernet, predictor))

    rows = list(csv.DictReader((tmp_path / "front.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert {row["arch_id"] for row in rows} == {SPACE.arch_id(arch) for arch in SPACE.decode(front)}
    values = np.array([[-float(row["accuracy"]), float(row["macs"]), float(row["latency_ms"])] for row in rows])
    assert np.isfinite(values).all()
    assert not any((other <= row).all() and (other < row).any() for row in values for other in values)


def save_front(path: Path, genomes: NDArray[Any], values: NDArray[np.float64]) -> None:
    """Stand-in for the report."""
    lines = [",".join(COLUMNS)]
    for arch, (loss, macs, latency) in zip(SPACE.decode(genomes), values.tolist(), strict=True):
        lines.append(f"{SPACE.arch_id(arch)},{-loss},{macs:.0f},{latency}")
    write_atomic(path, "\n".join(lines) + "\n")
