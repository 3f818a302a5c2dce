"""Export a module to a TensorRT engine that is checked against torch before it is saved."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hwnas.export.accuracy import compare_logits
from hwnas.export.calibration import LabeledImages
from hwnas.export.export import ExportedModule
from hwnas.export.parity import (
    Array,
    ExportParity,
    check_parity,
    largest_difference,
    parity_path,
    remove_parity,
    write_checked,
)
from hwnas.export.tensorrt.build import build_engine
from hwnas.export.tensorrt.execution import Execution, TorchCuda
from hwnas.export.tensorrt.files import BuiltEngine, EngineFiles, save_engine
from hwnas.export.tensorrt.library import LibraryName
from hwnas.export.tensorrt.settings import EngineSettings


def export_engine(
    module: nn.Module,
    graph: ExportedModule,
    path: Path,
    *,
    input_shape: Sequence[int],
    settings: EngineSettings,
    images: LabeledImages | None = None,
) -> ExportedModule:
    """Build the engine of an exported graph, compare it with torch and save it.

    An engine that is built ahead of time, for GPUs that the settings name, cannot run here: its parity is that of the
    graph, with a note.

    Args:
        module: The module that was exported, in evaluation mode on the CPU.
        graph: Its ONNX graph, as `export_module` wrote it.
        path: The engine file.
        input_shape: Shape of one image: channels, height, width.
        settings: Settings of the build.
        images: Held-out images that the accuracy of an engine in fp8 is measured on.

    Returns:
        The engine's files and its parity; `files` includes those of the graph, `seconds` the time of its export.

    Raises:
        CheckFailedError: The engine's outputs differ from torch's by more than rounding explains; nothing is saved but
            the parity record.
        InputError: The graph does not fit the settings, or TensorRT cannot build the engine.
        MissingError: TensorRT or an NVIDIA GPU is not available.
    """
    start = time.perf_counter()
    remove_parity(path)
    built = build_engine(graph.path, settings)
    if settings.compute_capabilities:
        parity = replace(graph.parity, runtime=f"{graph.parity.runtime}; the engine was not run")
    elif images is not None and graph.parity.accuracy is not None:
        parity = _accurate(module, built, graph.parity, images, settings=settings)
    else:
        with _engine(built.engine, library=settings.library) as run:
            parity = check_parity(
                module,
                run,
                input_shape=input_shape,
                precision=settings.precision,
                batches=(settings.batch,),
                runtime=f"{settings.library} {built.card.tensorrt}",
            )
    parity = write_checked(parity, path, content=built.engine, write=lambda: save_engine(built, path))
    files = EngineFiles(engine=path)
    return replace(
        graph,
        path=path,
        files=(files.engine, files.card, files.layers, parity_path(path), *graph.files),
        format=settings.library,
        precision=settings.precision,
        parity=parity,
        seconds=graph.seconds + time.perf_counter() - start,
    )


def _accurate(
    module: nn.Module, built: BuiltEngine, graph: ExportParity, images: LabeledImages, *, settings: EngineSettings
) -> ExportParity:
    """Return the record of a quantised graph with the accuracy of its engine in place of that of ONNX Runtime."""

    @torch.inference_mode()
    def expected(batch: Array) -> Array:
        logits: Array = module(torch.from_numpy(batch)).float().numpy()
        return logits

    with _engine(built.engine, library=settings.library) as run:
        logits = compare_logits(expected, run, images, batch=settings.batch)
    assert graph.accuracy is not None
    difference, relative = largest_difference(logits.found, logits.expected)
    accuracy = replace(graph.accuracy, top1=logits.top1, float_top1=logits.float_top1)
    return replace(
        graph,
        max_absolute=difference,
        max_relative=relative,
        top1_agreement=logits.top1_agreement,
        runtime=f"{settings.library} {built.card.tensorrt}",
        accuracy=accuracy,
    )


@contextmanager
def _engine(engine: bytes, *, library: LibraryName) -> Iterator[Callable[[Array], Array]]:
    """Load an engine with its first batch of images, and run all batches on it."""
    with ExitStack() as open_until_the_end:
        execution: Execution | None = None

        def run(images: Array) -> Array:
            nonlocal execution
            batch = torch.from_numpy(images)
            if execution is None:
                execution = Execution(engine, batch, cuda=TorchCuda(), library=library)
                open_until_the_end.callback(execution.close)
            logits: Array = execution.logits(batch).numpy()
            return logits

        yield run
