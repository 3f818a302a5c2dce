"""Export a module to an ONNX graph, composed from templates or traced in one piece."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from hwnas.errors import InputError, unknown
from hwnas.export.calibration import Calibration, random_calibration
from hwnas.export.dynamo import OUTPUT, export_dynamo
from hwnas.export.precision import copy_in_precision, exported_precision, precision_type
from hwnas.metrics import QUANTISED
from hwnas.runs import hwnas_version, package_versions

if TYPE_CHECKING:
    import onnx

    from hwnas.export.compose import Composition
    from hwnas.export.quantise import Quantisation
    from hwnas.export.templates import TemplateStore

EXPORTERS = ("auto", "composed", "dynamo")
"""'composed' takes networks with `segments()` and a fixed batch, 'dynamo' any module; 'auto' composes if it can."""


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """A graph and how it was exported."""

    model: "onnx.ModelProto"
    exporter: str
    """'composed', 'dynamo' or 'dynamo-dynamic'. Runtimes fuse the graphs of these differently, so measurements of
    different exporters are never mixed."""
    precision: str
    batch: int | None
    composition: "Composition | None" = None
    """The origin of the segments of a composed graph."""
    quantisation: "Quantisation | None" = None
    """The origin of a quantised graph."""
    seconds: float


def build_onnx(
    module: nn.Module,
    *,
    input_shape: Sequence[int],
    batch: int | None = 1,
    precision: str = "fp32",
    exporter: str = "auto",
    metadata: Mapping[str, str] | None = None,
    store: "TemplateStore | None" = None,
    calibration: Calibration | None = None,
    int8_rest: str = "fp32",
    outputs: Sequence[str] = (OUTPUT,),
) -> OnnxGraph:
    """Export a module to an ONNX graph.

    Args:
        module: The module; a copy in evaluation mode is exported.
        input_shape: Shape of one image: channels, height, width.
        batch: Batch size that the graph accepts; None for any.
        precision: 'fp32', 'fp16', 'bf16', 'int8', 'int8-dynamic' or 'fp8'; images and logits are float32 in each.
        exporter: 'composed', 'dynamo', or 'auto' for the first if it is possible.
        metadata: Entries for the graph's metadata, next to versions, precision and exporter.
        store: Templates of a composed graph; None for those in the user's cache.
        calibration: Images for the scales of 'int8' and 'fp8'; None for random ones, which suffice to time the graph.
        int8_rest: Precision of what 'int8' does not quantise: 'fp32', or 'fp16' for an engine of TensorRT, which
            computes in the types of its graph.
        outputs: Names of the outputs, several of a module that returns several tensors, which is not composed.

    Raises:
        InputError: The module cannot be exported by this exporter.
    """
    start = time.perf_counter()
    float_precision = exported_precision(precision)
    precision_type(float_precision)
    export = partial(
        _export_unquantised,
        module,
        input_shape=input_shape,
        batch=batch,
        exporter=exporter,
        store=store,
        outputs=outputs,
    )
    model, exporter, composition = export(float_precision)
    metadata, quantisation = dict(metadata or {}), None
    if precision in QUANTISED:
        from hwnas.export.quantise import quantise_graph

        calibration = calibration or random_calibration(input_shape, batch=batch or 1)
        in_half = precision == "fp8" or (precision == "int8" and int8_rest == "fp16")
        half = export("fp16")[0] if in_half else None
        quantisation = quantise_graph(model, precision=precision, calibration=calibration, half=half)
        model = quantisation.model
        if quantisation.recipe is not None:
            metadata["calibration"] = quantisation.recipe.to_json()
    for part in (model, model.graph, *model.functions, *model.graph.node):
        del part.metadata_props[:]  # torch's name the source files of this machine, line by line
    model.producer_name, model.producer_version = "hwnas", hwnas_version()
    entries = export_metadata(exporter=exporter, precision=precision, batch=batch, metadata=metadata)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return OnnxGraph(
        model=model,
        exporter=exporter,
        precision=precision,
        batch=batch,
        composition=composition,
        quantisation=quantisation,
        seconds=time.perf_counter() - start,
    )


def _export_unquantised(
    module: nn.Module,
    precision: str,
    *,
    input_shape: Sequence[int],
    batch: int | None,
    exporter: str,
    store: "TemplateStore | None",
    outputs: Sequence[str],
) -> "tuple[onnx.ModelProto, str, Composition | None]":
    """Return a graph in a floating-point precision, the exporter that was used, and the origin of its segments."""
    if _is_composed(module, exporter=exporter, batch=batch):
        from hwnas.export.compose import compose

        assert batch is not None
        composition = compose(module, input_shape=input_shape, batch=batch, precision=precision, store=store)
        return composition.model, "composed", composition
    model = export_dynamo(copy_in_precision(module, precision), input_shape=input_shape, batch=batch, outputs=outputs)
    return model, "dynamo" if batch else "dynamo-dynamic", None


def export_metadata(
    *, exporter: str, precision: str, batch: int | None, metadata: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the metadata of an exported file: versions, exporter, precision, batch, and further entries."""
    versions = package_versions(("torch", "onnx", "onnxscript"))
    return {
        "hwnas": hwnas_version(),
        "exporter": exporter,
        "precision": precision,
        "batch": str(batch) if batch else "any",
        **versions,
        **(metadata or {}),
    }


def _is_composed(module: nn.Module, *, exporter: str, batch: int | None) -> bool:
    if exporter not in EXPORTERS:
        raise unknown("exporter", exporter, EXPORTERS)
    if batch is not None and batch < 1:
        raise InputError("the batch must be at least 1, or open", got=batch)
    if exporter == "composed" and batch is None:
        raise InputError("a composed graph must have a fixed batch", got="an open one", hint="exporter='dynamo'")
    return exporter == "composed" or (exporter == "auto" and batch is not None and hasattr(module, "segments"))
