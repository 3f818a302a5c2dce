"""A TensorRT engine built from an exported graph, and checked against torch before it is kept."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from hwnas.export.export import Exported
from hwnas.export.parity import Array, check_parity, forget_parity, parity_path, write_checked
from hwnas.export.tensorrt import EngineFiles, EngineSettings, TimingCache, build_engine, save_engine
from hwnas.profile.runners.tensorrt import timing_cache_from
from hwnas.supernet.loading import WeightedNetwork

if TYPE_CHECKING:
    from hwnas.export.tensorrt.settings import CacheUse, EnginePrecision


@dataclass(frozen=True, kw_only=True)
class WrittenEngine:
    """What was written, in the terms of an export."""

    exported: Exported
    files: tuple[Path, ...]


def engine_settings(
    *,
    precision: str,
    batch: int,
    workspace_mb: int | None = None,
    optimization_level: int | None = None,
    timing_cache: Path | None = None,
    timing_cache_use: str | None = None,
) -> EngineSettings:
    """How an engine is built; the settings check themselves, and stand on the engine's card.

    Without a timing cache it is the one that the environment names, as for a campaign (HWNAS_TIMING_CACHE).
    """
    usual = EngineSettings()
    use = cast("CacheUse", timing_cache_use or "extend")
    return EngineSettings(
        precision=cast("EnginePrecision", precision),
        batch=batch,
        workspace_mb=workspace_mb,
        optimization_level=usual.optimization_level if optimization_level is None else optimization_level,
        timing_cache=TimingCache(path=timing_cache, use=use) if timing_cache else timing_cache_from(os.environ),
    )


def write_engine(found: WeightedNetwork, graph: Exported, path: Path, *, settings: EngineSettings) -> WrittenEngine:
    """Build the engine of a graph for the GPU of this process, compare it with torch, and write it."""
    start = time.perf_counter()
    forget_parity(path)
    built = build_engine(graph.path, settings)
    parity = check_parity(
        found.module,
        lambda images: _run(built.engine, images),
        input_shape=found.space.config.input_shape,
        precision=settings.precision,
        batches=(settings.batch,),
        runtime=f"tensorrt {built.card.tensorrt}",
    )
    files = EngineFiles(engine=path)
    parity = write_checked(parity, path, content=built.engine, write=lambda: save_engine(built, path))
    seconds = graph.seconds + time.perf_counter() - start
    exported = replace(
        graph, path=path, format="tensorrt", precision=settings.precision, parity=parity, seconds=seconds
    )
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
