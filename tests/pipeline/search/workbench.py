"""What a search takes, at toy size: supernets that nobody trained, predictors fitted to made-up times."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.metrics import ANY_BATCH, Deployment, Metric
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import SearchRun
from hwnas.predict.features.counting import population_features
from hwnas.predict.fit import Observations, fit_predictor
from hwnas.predict.lookup import predictor_folder
from hwnas.predict.models import AnalyticLearner
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from hwnas.search.record import write_record
from hwnas.search.spec import PostSearch
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from hwnas.supernet.store import save_supernet
from tests.pipeline.campaigns import CPU
from tests.predict.synthetic import cpu_conditions

MICROS = tuple(name for name in SPACES.names() if name.endswith("-micro"))
FIRST = "autoformer-micro"
DATA = "digits"
ELASTIC = "elastic-test_vit-64px"
FAST = PostSearch(pairs=8, export_top=0)
SPEED = f"throughput@{CPU}/onnxruntime/fp32/b1"
TIMES = {
    "onnxruntime/fp32": 1.0,
    "torch/fp32": 1.4,
    "torch/bf16": 0.8,
    "torch-compile/bf16": 0.5,
    "onnxruntime/int8": 0.4,
}
"""Relative times of deployments."""


@cache
def fitted(
    space: str,
    name: str,
    device: str,
    count: int = 24,
    batch: int | None = 1,
    deployment: str = "onnxruntime/fp32",
    of_any: bool = False,
) -> Predictor:
    """A predictor of times that grow with MACs, `of_any` for networks of any kind."""
    chosen = SPACES.get(space)
    genomes = chosen.sample(np.random.default_rng(0), count)
    latency = np.asarray(TIMES[deployment] * (0.2 + chosen.costs(genomes).macs * 2e-7), dtype=np.float64)
    measured = replace(Deployment.parse(deployment), device=device, batch=batch or ANY_BATCH, threads=1)
    observed = Observations(
        metric=Metric(name=name, deployment=measured),
        conditions=cpu_conditions(),
        features=population_features(chosen.workloads(genomes), cpu_conditions()),
        values=np.divide(1000, latency) if name == "throughput" else latency,
        space=None if of_any else space,
    )
    return fit_predictor(observed, learners=(AnalyticLearner(),), with_curve=False)


def write_predictor(
    folder: Path,
    space: str,
    name: str = "throughput",
    *,
    device: str = CPU,
    batch: int | None = 1,
    deployment: str = "onnxruntime/fp32",
    of_any: bool = False,
) -> Path:
    """A predictor where the library finds it; without a batch, one for any."""
    predictor = fitted(space, name, device, batch=batch, deployment=deployment, of_any=of_any)
    path = folder / predictor_folder(predictor.card.metric, space=predictor.card.space)
    save_predictor(predictor, path)
    return path


def write_supernet(folder: Path, space: str, *, num_classes: int = 10, image_size: int | None = None) -> Path:
    """A supernet with fresh weights."""
    path = folder / f"{space}.safetensors"
    torch.manual_seed(0)
    save_supernet(make_supernet(SPACES.get(space).adapted(image_size=image_size, num_classes=num_classes)), path)
    return path


def write_bench(folder: Path, space: str) -> dict[str, Any]:
    """Supernet and predictors of a space under a folder, as options of a search take them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_predictor(folder / "predictors", space, "throughput")
    write_predictor(folder / "predictors", space, "latency_ms")
    supernet = write_supernet(folder, space)
    return {"supernet": supernet, "data": DATA, "predictors": folder / "predictors", "runs": folder / "runs"}


def options(bench: dict[str, Any], **changes: Any) -> SearchOptions:
    """A search of twelve networks."""
    values: dict[str, Any] = {"objectives": ("throughput",), "budget": 12, "post_search": FAST, **bench, **changes}
    return SearchOptions(**values)


def free(bench: dict[str, Any], **changes: Any) -> SearchOptions:
    """A search without accuracy, which takes no time."""
    own = {name: bench[name] for name in ("predictors", "runs")}
    space = bench.get("space", FIRST)
    return options({**own, "space": space}, accuracy=False, budget=changes.pop("budget", 60), **changes)


def unverified(searched: SearchRun, folder: Path) -> Path:
    """A copy of a run as it was before its front was measured."""
    run = folder / "run"
    shutil.copytree(searched.run, run, ignore=shutil.ignore_patterns("profiles", "study.lock"))
    write_record(run, replace(searched.record, verification=None, measured_front=None))
    return run
