"""The fast path to ONNX: a network put together from the graphs of its segments.

A network is anything that says its `segments()`: named modules that run one after another, one tensor in and one out.
The graph of a segment comes from the template of its structure, with the sizes and the weights of this one filled in;
only what the template does not determine yet is exported, and teaches it. The first instance of a structure that is
inferred rather than exported is compared with torch; that the composed network as a whole gives torch's outputs is for
`hwnas.export.parity`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import onnx
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.export.assembly import Assembly
from hwnas.export.graph_template import Filled, UnfitError
from hwnas.export.parity import EXACT_TOLERANCE
from hwnas.export.precision import precision_type
from hwnas.export.rounding import rounded_weights
from hwnas.export.segment import export_segment
from hwnas.export.structure import OpaqueError, Structure, read_structure
from hwnas.export.templates import Template, TemplateStore, default_store


@runtime_checkable
class Segmented(Protocol):
    """A network that consists of modules which run one after another."""

    def segments(self) -> dict[str, nn.Module]:
        """The modules by name, in the order in which they run."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A composed graph, and where its segments came from."""

    model: onnx.ModelProto
    segments: int
    reused: int
    """Segments that were filled from a template as they stood."""
    exported: tuple[str, ...]
    """Segments that were exported, because their template was new or left a choice."""
    opaque: Mapping[str, str]
    """Those of them that no template can hold, and why: they are exported every time."""
    seconds: float


def compose(
    network: nn.Module,
    *,
    input_shape: Sequence[int],
    batch: int = 1,
    precision: str = "fp32",
    store: TemplateStore | None = None,
) -> Composition:
    """The graph of a network for a fixed batch of images (C, H, W), with the input `images` and the output `logits`."""
    if not isinstance(network, Segmented):
        hint = "exporter='dynamo', which takes any module"
        raise InputError("a network must have segments() to be composed", got=type(network).__name__, hint=hint)
    start = time.perf_counter()
    work = _Work(precision=precision, store=store or default_store())
    graph = Assembly(precision=precision, shape=(batch, *input_shape))
    for name, segment in network.segments().items():
        graph.append(name, work.filled(name, segment, graph.shape), segment)
    return Composition(
        model=graph.finish(),
        segments=len(network.segments()),
        reused=work.reused,
        exported=tuple(work.exported),
        opaque=work.opaque,
        seconds=time.perf_counter() - start,
    )


# ------------------------------------------------------------------------------ the graph of a segment


@dataclass(kw_only=True)
class _Work:
    """Finds the graph of one segment after another, and counts how."""

    precision: str
    store: TemplateStore
    reused: int = 0
    exported: list[str] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)

    def filled(self, name: str, segment: nn.Module, shape: Sequence[int]) -> Filled:
        """The graph of a segment for an input of this shape."""
        dtype = precision_type(self.precision)
        try:
            structure = read_structure(segment, input_shape=shape, dtype=dtype)
        except OpaqueError as error:
            self.opaque[name] = str(error)
            return self._export(name, segment, shape, Template(), {})
        template = self.store.get(structure.text)
        found = template.known(structure.numbers) or self._inferred(segment, shape, template, structure)
        if found is not None:
            self.reused += 1
            return found
        found = self._export(name, segment, shape, template, structure.numbers)
        self.store.save(structure.text)
        return found

    def _inferred(
        self, segment: nn.Module, shape: Sequence[int], template: Template, structure: Structure
    ) -> Filled | None:
        """What the template infers, if it was compared with torch once."""
        found = template.infer(structure.numbers)
        if found is not None and not template.is_verified:
            template.is_verified = self._agrees(segment, shape, found)
            template.is_refuted = not template.is_verified
            self.store.save(structure.text)
        if found is None or template.is_refuted:
            return None
        template.accept(structure.numbers, found)
        return found

    def _export(
        self, name: str, segment: nn.Module, shape: Sequence[int], template: Template, sizes: Mapping[str, int | float]
    ) -> Filled:
        self.exported.append(name)
        model = export_segment(segment, input_shape=shape, dtype=precision_type(self.precision))
        try:
            return template.learn(sizes, model)
        except UnfitError as error:
            hint = "exporter='dynamo'"
            raise InputError(
                f"the segment {name} must have a plain graph to be composed", got=error, hint=hint
            ) from error

    def _agrees(self, segment: nn.Module, shape: Sequence[int], found: Filled) -> bool:
        """Whether the graph, computed in float32, gives what the segment gives with the same weights."""
        from hwnas.export.onnx_session import evaluate, widened

        x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
        graph = Assembly(precision=self.precision, shape=shape)
        graph.append("segment", found, segment)
        with torch.inference_mode():
            expected = rounded_weights(segment, precision=self.precision)(x).numpy()
        outputs = evaluate(widened(graph.finish()), x.numpy())
        if outputs.shape != expected.shape:
            return False
        close = np.abs(outputs - expected).max() <= EXACT_TOLERANCE * np.abs(expected).max()
        return bool(close)
