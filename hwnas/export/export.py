"""Export any module to a file that runs without hwnas, checked against torch before it is written."""

import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_map

from hwnas.devices.memory import available_bytes, memory_limit
from hwnas.errors import InputError, unknown
from hwnas.export.accuracy import LogitsFunction, QuantisedAccuracy, classify, layer_noise, require_unsaturated
from hwnas.export.calibration import Calibration, LabeledImages
from hwnas.export.dynamo import OUTPUT
from hwnas.export.onnx_graph import build_onnx, export_metadata
from hwnas.export.parity import (
    Array,
    ExactCheck,
    ExportParity,
    check_parity,
    largest_difference,
    parity_path,
    remove_parity,
    write_checked,
)
from hwnas.export.precision import copy_in_precision, exported_precision, precision_type
from hwnas.export.rounding import with_rounded_weights
from hwnas.export.tracer import trace_module
from hwnas.metrics import QUANTISED

if TYPE_CHECKING:
    from hwnas.export.compose import Composition
    from hwnas.export.quantise import Quantisation
    from hwnas.export.templates import TemplateStore

_log = logging.getLogger(__name__)

DESCRIPTION = "hwnas.json"
"""The entry of a pt2 archive that holds its metadata. In a safetensors file it is the header entry `hwnas`."""

_OUT_OF_MEMORY = ("can't allocate memory", "bad allocation", "bad_alloc", "Failed to allocate memory")
"""Parts of messages of torch and onnxruntime."""

_RECORDED_LAYERS = 8
"""Layers whose noise in a quantised graph is recorded."""

_OPEN_BATCH_SIZES = (1, 3)
"""Batch sizes that a file with an open batch is checked with: 1, which exporters treat specially, and one that differs
from the size that it was traced with."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Everything that determines an exported file but the module."""

    input_shape: tuple[int, ...]
    """Shape of one image: channels, height, width."""
    precision: str = "fp32"
    batch: int | None = 1
    """None for any."""
    exporter: str = "auto"
    metadata: Mapping[str, str] | None = None
    store: "TemplateStore | None" = None
    calibration: Calibration | None = None
    int8_rest: str = "fp32"
    outputs: tuple[str, ...] = (OUTPUT,)

    @property
    def has_maps(self) -> bool:
        """True if the module returns a tuple of feature maps, even one alone."""
        return self.outputs != (OUTPUT,)

    def metadata_json(self, exporter: str) -> str:
        """Return the metadata of a file, as JSON."""
        entries = export_metadata(exporter=exporter, precision=self.precision, batch=self.batch, metadata=self.metadata)
        return json.dumps(entries)


@dataclass(frozen=True, kw_only=True)
class ExportArtifact:
    """The content of a file before it is written, and a way to run it."""

    content: bytes
    exporter: str
    run: LogitsFunction
    runtime: str
    exact: ExactCheck | None = None
    """The comparison without rounding, in a lower precision."""
    composition: "Composition | None" = None
    quantisation: "Quantisation | None" = None
    """The origin of a quantised graph."""


@dataclass(frozen=True, kw_only=True)
class AccuracyCheck:
    """The check of the accuracy of a quantised file."""

    images: LabeledImages
    """Held-out images."""
    max_drop: float = 0.01
    """Largest loss against float32, as a share of the images."""


@dataclass(frozen=True, kw_only=True)
class ExportedModule:
    """A written file and its parity with torch."""

    path: Path
    files: tuple[Path, ...]
    """The file and those that accompany it."""
    format: str
    precision: str
    batch: int | None
    exporter: str
    parity: ExportParity
    composition: "Composition | None" = None
    seconds: float


def export_module(
    module: nn.Module,
    *,
    format: str,
    path: Path,
    input_shape: Sequence[int],
    precision: str = "fp32",
    batch: int | None = 1,
    exporter: str = "auto",
    metadata: Mapping[str, str] | None = None,
    store: "TemplateStore | None" = None,
    images: int = 16,
    seed: int = 0,
    calibration: Calibration | None = None,
    accuracy: AccuracyCheck | None = None,
    int8_rest: str = "fp32",
    outputs: Sequence[str] = (OUTPUT,),
) -> ExportedModule:
    """Export a module to a file, if what the file holds gives torch's outputs on seeded images.

    The module is exported as it is in evaluation mode, and not changed. A record of the comparison, with the hash of
    the file, is written to `NAME.parity.json`.

    Args:
        module: Any module from images of shape (batch, channels, height, width) to logits, or to several tensors.
        format: 'onnx', 'pt2' (a `torch.export` program) or 'safetensors' (weights alone).
        path: The file; its folder is created if necessary.
        input_shape: Shape of one image: channels, height, width.
        precision: 'fp32', 'fp16', 'bf16', or for ONNX 'int8', 'int8-dynamic' or 'fp8'; images and logits are
            float32 in each.
        batch: Batch size that the file accepts; None for any.
        exporter: Way to an ONNX graph: 'composed', 'dynamo', or 'auto' for the first if it is possible.
        metadata: Entries for the metadata of the file.
        store: Templates of a composed graph; None for those in the user's cache.
        images: Number of images that are compared.
        seed: Seed of these images.
        calibration: Images for the scales of 'int8' and 'fp8'.
        accuracy: Images that the accuracy of a quantised file is measured on, and how much of it may be lost.
        int8_rest: Precision of what 'int8' does not quantise, 'fp32' or, for engines of TensorRT, 'fp16'.
        outputs: Names of the outputs. Of several, each is compared on its own, and the record is that of the one
            which differs most.

    Returns:
        The written files and the result of the comparison.

    Raises:
        CheckFailedError: The outputs differ from torch's by more than rounding explains, or quantising loses too
            much accuracy; the file is not written.
        InputError: The module cannot be exported in this way, or the file cannot be written.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    precision_type(exported_precision(precision))
    _require_images(precision, format=format, calibration=calibration, accuracy=accuracy)
    start = time.perf_counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {path.parent} cannot be created", got=error.strerror or str(error)) from error
    request = ExportRequest(
        input_shape=tuple(input_shape),
        precision=precision,
        batch=batch,
        exporter=exporter,
        metadata=metadata,
        store=store,
        calibration=calibration,
        int8_rest=int8_rest,
        outputs=tuple(outputs),
    )
    remove_parity(path)
    reference = copy_in_precision(module, "fp32")
    _require_memory(reference, request, images=images)
    with _explain_out_of_memory(request):
        artifact = FORMATS[format](reference, request)
        parity = _compare(reference, artifact, request, images=images, seed=seed)
        if artifact.quantisation is not None and accuracy is not None:
            parity = _with_accuracy(parity, artifact.quantisation, request, accuracy)
    parity = write_checked(parity, path, content=artifact.content)
    _log.info(
        "%s: exported by %s in %.2f s, largest difference %.1e of the largest %s",
        path,
        artifact.exporter,
        time.perf_counter() - start,
        parity.max_relative,
        parity.unit,
    )
    return ExportedModule(
        path=path,
        files=(path, parity_path(path)),
        format=format,
        precision=precision,
        batch=batch,
        exporter=artifact.exporter,
        parity=parity,
        composition=artifact.composition,
        seconds=time.perf_counter() - start,
    )


def require_quantisable(format: str, *, precision: str) -> None:
    """Raise an InputError if files of a format hold no network in a precision that is quantised."""
    if precision in QUANTISED and format != "onnx":
        raise InputError(f"networks in {precision} are ONNX graphs", got=f"format {format}", hint="--format onnx")


def _require_images(
    precision: str, *, format: str, calibration: Calibration | None, accuracy: AccuracyCheck | None
) -> None:
    """Require the images that a quantised file is made with, and whose accuracy is compared."""
    if precision not in QUANTISED:
        return
    require_quantisable(format, precision=precision)
    if accuracy is None or (precision != "int8-dynamic" and calibration is None):
        message = f"{precision} needs images, to calibrate with and to compare accuracy with fp32 on"
        raise InputError(message, got="none", hint="--data DIR, or hwnas.export_network(quantisation=...)")


def _require_memory(module: nn.Module, request: ExportRequest, *, images: int) -> None:
    """Refuse a batch whose images and largest operation alone do not fit into memory.

    Batches up to the number of images that every export is checked with need no more than those.
    """
    free_bytes = available_bytes()
    if request.batch is None or request.batch <= images or free_bytes is None:
        return
    try:
        operations = trace_module(module, input_shape=(1, *request.input_shape)).operations
    except InputError:  # a module that the tracer cannot follow
        operations = ()
    elements = max((int(item.elements_read + item.elements_written) for item in operations), default=0)
    image_bytes = 4 * (math.prod(request.input_shape) + elements)
    if request.batch * image_bytes > free_bytes:
        needed, free = (f"{count / 1e9:,.1f} GB" for count in (request.batch * image_bytes, free_bytes))
        raise InputError(
            f"the check of a batch of {request.batch:,} images must fit into memory",
            got=f"at least {needed}, of which {free} are free",
            hint=f"a batch of at most {max(1, free_bytes // (4 * image_bytes)):,}, or a dynamic batch",
        )


@contextmanager
def _explain_out_of_memory(request: ExportRequest) -> Iterator[None]:
    """Limit this process to the free memory, so that it gets an error and is not killed."""
    try:
        with memory_limit():
            yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        message = "the network and the images that it is checked with must fit into memory"
        raise InputError(message, got=f"a batch of {request.batch or 'any size'}", hint="a smaller batch") from error


def _compare(
    reference: nn.Module, artifact: ExportArtifact, request: ExportRequest, *, images: int, seed: int
) -> ExportParity:
    def check(module: nn.Module, run: LogitsFunction, exact: ExactCheck | None) -> ExportParity:
        return check_parity(
            module,
            run,
            input_shape=request.input_shape,
            precision=exported_precision(request.precision),
            batches=_OPEN_BATCH_SIZES if request.batch is None else (request.batch,),
            images=images,
            seed=seed,
            runtime=artifact.runtime,
            exact=exact,
            is_map=request.has_maps,
        )

    if not request.has_maps:
        return check(reference, artifact.run, artifact.exact)
    found = []
    for number in range(len(request.outputs)):
        exact = artifact.exact
        if exact is not None:
            exact = ExactCheck(run=_one_output(exact.run, number), module=_OneOutput(exact.module, number))
        found.append(check(_OneOutput(reference, number), _one_output(artifact.run, number), exact))
    return max(found, key=lambda parity: (not parity.passed, parity.max_relative / (parity.tolerance or 1.0)))


class _OneOutput(nn.Module):
    """A module that returns one of the outputs of another."""

    def __init__(self, module: nn.Module, number: int) -> None:
        super().__init__()
        self.module, self.number = module, number

    def forward(self, images: Tensor) -> Tensor:
        """Return the output."""
        output: Tensor = self.module(images)[self.number]
        return output


def _one_output(run: LogitsFunction, number: int) -> LogitsFunction:
    return lambda images: run(images)[number]


def _with_accuracy(
    parity: ExportParity, quantisation: "Quantisation", request: ExportRequest, check: AccuracyCheck
) -> ExportParity:
    """Return the record of a quantised graph, from that of the same in float32 and its outputs on labelled images."""
    logits = classify(quantisation.float_model, quantisation.model, check.images, batch=request.batch)
    layers = layer_noise(
        quantisation.float_model,
        quantisation.ranges,
        check.images,
        batch=request.batch,
        precision=quantisation.precision,
    )
    if quantisation.ranges is not None:
        require_unsaturated(layers)
    difference, relative = largest_difference(logits.found, logits.expected)
    accuracy = QuantisedAccuracy(
        data=check.images.name,
        images=len(logits.labels),
        top1=logits.top1,
        float_top1=logits.float_top1,
        max_drop=check.max_drop,
        calibration=quantisation.recipe,
        noisiest_layers=tuple(layers[:_RECORDED_LAYERS]),
    )
    return replace(
        parity,
        max_absolute=difference,
        max_relative=relative,
        top1_agreement=logits.top1_agreement,
        images=len(logits.labels),
        precision=request.precision,
        tolerance=None,
        exact_relative=parity.max_relative,
        accuracy=accuracy,
    )


def _export_onnx(module: nn.Module, request: ExportRequest) -> ExportArtifact:
    from hwnas.export.onnx_session import needs_widening, open_session, runnable, widened
    from hwnas.export.onnxruntime_library import load_onnxruntime

    load_onnxruntime()  # before the work that could not be checked without it
    graph = build_onnx(
        module,
        input_shape=request.input_shape,
        batch=request.batch,
        precision=request.precision,
        exporter=request.exporter,
        metadata=request.metadata,
        store=request.store,
        calibration=request.calibration,
        int8_rest=request.int8_rest,
        outputs=request.outputs,
    )
    if graph.quantisation is not None:  # before it was quantised it must equal torch, as every graph
        return ExportArtifact(
            content=graph.model.SerializeToString(),
            exporter=graph.exporter,
            run=_run_session(open_session(graph.quantisation.float_model)),
            runtime="onnxruntime",
            composition=graph.composition,
            quantisation=graph.quantisation,
        )
    content = graph.model.SerializeToString()
    run = _run_session(open_session(runnable(graph.model)), has_maps=request.has_maps)
    is_widened = needs_widening(graph.model)
    exact = None
    if request.precision != "fp32":
        run_exact = run
        if not is_widened:
            run_exact = _run_session(open_session(widened(graph.model)), has_maps=request.has_maps)
        exact = ExactCheck(run=run_exact, module=with_rounded_weights(module, precision=request.precision))
    return ExportArtifact(
        content=content,
        exporter=graph.exporter,
        run=run,
        runtime="onnxruntime, widened to fp32" if is_widened else "onnxruntime",
        exact=exact,
        composition=graph.composition,
    )


def _export_pt2(module: nn.Module, request: ExportRequest) -> ExportArtifact:
    from hwnas.export.dynamo import trace_program

    network = copy_in_precision(module, request.precision)
    program = trace_program(network, input_shape=request.input_shape, batch=request.batch)
    program.example_inputs = None  # torch would save the images that it was traced with, as a pickle
    for graph_module in program.graph_module.modules():
        for node in graph_module.graph.nodes if isinstance(graph_module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names the source files of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={DESCRIPTION: request.metadata_json("torch.export")})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    run = _run_module(loaded)
    # The program consists of torch's own operations, so it rounds exactly as the module in the same precision does.
    exact = None if request.precision == "fp32" else ExactCheck(run=run, module=network)
    return ExportArtifact(
        content=buffer.getvalue(), exporter="torch.export", run=run, runtime="torch.export", exact=exact
    )


def _export_safetensors(module: nn.Module, request: ExportRequest) -> ExportArtifact:
    from safetensors.torch import load, save

    dtype = precision_type(request.precision)
    # Cloned, since safetensors refuses tensors that share memory: tied weights are saved once for each name.
    tensors = {
        name: tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
        for name, tensor in module.state_dict().items()
    }
    content = save(tensors, metadata={"format": "pt", "hwnas": request.metadata_json("module")})
    own = copy_in_precision(module, "fp32")
    own.load_state_dict(load(content))
    run, exact = _run_module(own), None
    if request.precision != "fp32":
        exact = ExactCheck(run=run, module=with_rounded_weights(module, precision=request.precision))
    return ExportArtifact(content=content, exporter="module", run=run, runtime="torch", exact=exact)


FORMATS: Mapping[str, Callable[[nn.Module, ExportRequest], ExportArtifact]] = {
    "onnx": _export_onnx,
    "pt2": _export_pt2,
    "safetensors": _export_safetensors,
}


def _run_session(session: Any, *, has_maps: bool = False) -> LogitsFunction:
    def run(images: Array) -> Array:
        found: Any = session.run(None, {session.get_inputs()[0].name: images})
        logits: Array = found if has_maps else found[0]
        return logits

    return run


def _run_module(module: Callable[[Tensor], Any]) -> LogitsFunction:
    def run(images: Array) -> Array:
        with torch.inference_mode():
            found = tree_map(lambda output: output.float().numpy(), module(torch.from_numpy(images)))
        logits: Array = found
        return logits

    return run
