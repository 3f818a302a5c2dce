"""The whole chain once, at toy size: space, supernet, training, ONNX timing, fit, NSGA-II, CSV.

Space, supernet, training, export and timing are real. What is not there yet is stood in for by the simplest thing that
has the same place: each stand-in leaves this file when its package comes.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from sklearn.linear_model import LinearRegression

from hwnas.pipeline.measure import measure
from hwnas.pipeline.train import train_model
from hwnas.pipeline.training.judging import make_judge
from hwnas.pipeline.training.options import TrainOptions
from hwnas.profile.request import CampaignRequest
from hwnas.profile.summary import figures
from hwnas.records import load_profile
from hwnas.runs import write_atomic
from hwnas.space import SPACES
from hwnas.supernet.store import load_supernet
from hwnas.train.accuracy import Judge
from hwnas.train.data.config import DataConfig
from hwnas.train.data.sources import open_data
from hwnas.train.loop import LoopConfig

SPACE = SPACES.get("autoformer-micro")
COLUMNS = ("arch_id", "accuracy", "macs", "latency_ms")


class Choose(Problem):  # type: ignore[misc]
    """Stand-in for the search: accuracy, MACs and predicted latency of a population."""

    def __init__(self, judge: Judge, predictor: LinearRegression) -> None:
        upper = [len(dimension.choices) - 1 for dimension in SPACE.dimensions]
        super().__init__(n_var=len(upper), n_obj=3, xl=0, xu=np.array(upper), vtype=int)
        self.judge, self.predictor = judge, predictor

    def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = objectives(SPACE.repair(x), self.judge, self.predictor)


def objectives(genomes: NDArray[Any], judge: Judge, predictor: LinearRegression) -> NDArray[np.float64]:
    macs = SPACE.costs(genomes).macs
    hits = [accuracy.top1 for accuracy in judge.judge(SPACE.decode(genomes))]
    return np.column_stack([-np.array(hits), macs, predictor.predict(macs[:, None])])


def test_the_chain_ends_in_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    options = TrainOptions(space=SPACE.name, data="digits", limit=256, epochs=2)
    trained = train_model(options, out=tmp_path / "run", loop=LoopConfig(progress=False))
    data = open_data(DataConfig(name="digits", limit=256), image_shape=SPACE.config.input_shape)
    judge = make_judge(load_supernet(trained.weights).eval(), data, checkpoint_id="chain")

    request = CampaignRequest(
        space=SPACE.name, device="cpu", samples=4, repeats=0, landmarks=False, pairs=8, out=tmp_path / "profiles"
    )
    (profile,) = measure(request).profiles
    rows = figures(load_profile(profile.path))
    assert len(rows) == 4
    archs = [SPACE.parse(row.subject.arch) for row in rows]
    profiled = SPACE.costs(SPACE.encode(archs)).macs[:, None]
    predictor = LinearRegression(positive=True).fit(profiled, [row.latency_ms for row in rows])

    operators = {"crossover": SBX(repair=RoundingRepair()), "mutation": PM(repair=RoundingRepair())}
    algorithm = NSGA2(pop_size=12, sampling=IntegerRandomSampling(), **operators)
    result = minimize(Choose(judge, predictor), algorithm, ("n_gen", 4), seed=0)
    front = np.unique(SPACE.repair(result.X), axis=0)
    save_front(tmp_path / "front.csv", front, objectives(front, judge, predictor))

    table = list(csv.DictReader((tmp_path / "front.csv").read_text().splitlines()))
    assert tuple(table[0]) == COLUMNS
    assert {row["arch_id"] for row in table} == {SPACE.arch_id(arch) for arch in SPACE.decode(front)}
    values = np.array([[-float(row["accuracy"]), float(row["macs"]), float(row["latency_ms"])] for row in table])
    assert np.isfinite(values).all()
    assert not any((other <= row).all() and (other < row).any() for row in values for other in values)


def save_front(path: Path, genomes: NDArray[Any], values: NDArray[np.float64]) -> None:
    """Stand-in for the report."""
    lines = [",".join(COLUMNS)]
    for arch, (loss, macs, latency) in zip(SPACE.decode(genomes), values.tolist(), strict=True):
        lines.append(f"{SPACE.arch_id(arch)},{-loss},{macs:.0f},{latency}")
    write_atomic(path, "\n".join(lines) + "\n")
