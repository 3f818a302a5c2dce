"""A TensorRT engine built from an exported graph, and checked against torch before it is kept."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from hwnas.export.export import Exported
from hwnas.export.parity import Array, check_parity, parity_path
from hwnas.export.tensorrt import EngineSettings, build_engine, save_engine
from hwnas.pipeline.weights import WeightedNetwork

if TYPE_CHECKING:
    from hwnas.export.tensorrt.settings import EnginePrecision


@dataclass(frozen=True, kw_only=True)
class WrittenEngine:
    """What was written, in the terms of an export."""

    exported: Exported
    files: tuple[Path, ...]


def write_engine(found: WeightedNetwork, graph: Exported, path: Path, *, precision: str, batch: int) -> WrittenEngine:
    """Build the engine of a graph for the GPU of this process, compare it with torch, and write it."""
    start = time.perf_counter()
    built = build_engine(graph.path, EngineSettings(precision=cast("EnginePrecision", precision), batch=batch))
    parity = check_parity(
        found.module,
        lambda images: _run(built.engine, images),
        input_shape=found.space.config.input_shape,
        precision=precision,
        batch=batch,
        runtime=f"tensorrt {built.card.tensorrt}",
        path=path,
    )
    files = save_engine(built, path)
    seconds = graph.seconds + time.perf_counter() - start
    exported = replace(graph, path=path, format="tensorrt", parity=parity, seconds=seconds)
    return WrittenEngine(exported=exported, files=(files.engine, files.card, files.layers, parity_path(path)))


def _run(engine: bytes, images: Array) -> Array:
    from hwnas.export.tensorrt.cuda import TorchCuda
    from hwnas.export.tensorrt.execution import Execution

    execution = Execution(engine, torch.from_numpy(images), cuda=TorchCuda())
    try:
        logits: Array = execution.logits().numpy()
        return logits
    finally:
        execution.close()
