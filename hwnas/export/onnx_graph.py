"""A module as an ONNX graph by the path that suits it, with what it takes to know later how it was made."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from hwnas.errors import InputError, unknown
from hwnas.export.precision import in_precision, precision_type
from hwnas.runs import hwnas_version, package_versions

if TYPE_CHECKING:
    import onnx

    from hwnas.export.compose import Composition
    from hwnas.export.templates import TemplateStore

EXPORTERS = ("auto", "composed", "dynamo")
"""Compose a network that has segments and trace any other; or one of the two for certain."""


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """A graph and how it was made."""

    model: "onnx.ModelProto"
    exporter: str
    """'composed', 'dynamo' or 'dynamo-dynamic': runtimes fuse their graphs differently, so they are never mixed."""
    precision: str
    batch: int | None
    composition: "Composition | None" = None
    """Of a composed graph: which segments came from templates."""
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
) -> OnnxGraph:
    """The graph of a module for images of this shape (C, H, W); batch None: any number of them.

    Images and logits are float32 in every precision. `metadata` goes into the graph beside versions, precision and
    exporter, which TensorRT and onnxruntime hand back.
    """
    start = time.perf_counter()
    precision_type(precision)
    composition = None
    if _kind(module, exporter=exporter, batch=batch) == "composed":
        from hwnas.export.compose import compose

        assert batch is not None
        composition = compose(module, input_shape=input_shape, batch=batch, precision=precision, store=store)
        model, kind = composition.model, "composed"
    else:
        from hwnas.export.dynamo import export_dynamo

        model = export_dynamo(in_precision(module, precision), input_shape=input_shape, batch=batch)
        kind = "dynamo" if batch else "dynamo-dynamic"
    _describe(model, facts(exporter=kind, precision=precision, batch=batch, metadata=metadata))
    return OnnxGraph(
        model=model,
        exporter=kind,
        precision=precision,
        batch=batch,
        composition=composition,
        seconds=time.perf_counter() - start,
    )


def facts(
    *, exporter: str, precision: str, batch: int | None, metadata: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What an exported file says of itself: names to texts."""
    versions = package_versions(("torch", "onnx", "onnxscript"))
    return {
        "hwnas": hwnas_version(),
        "exporter": exporter,
        "precision": precision,
        "batch": str(batch) if batch else "any",
        **versions,
        **(metadata or {}),
    }


def _kind(module: nn.Module, *, exporter: str, batch: int | None) -> str:
    if exporter not in EXPORTERS:
        raise unknown("exporter", exporter, EXPORTERS)
    if batch is not None and batch < 1:
        raise InputError("the batch must be at least 1, or free", got=batch)
    if exporter == "composed" and batch is None:
        raise InputError("a composed graph must have a fixed batch", got="a free one", hint="exporter='dynamo'")
    if exporter == "auto":
        return "composed" if batch and hasattr(module, "segments") else "dynamo"
    return exporter


def _describe(model: "onnx.ModelProto", entries: Mapping[str, str]) -> None:
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "hwnas", hwnas_version()
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
