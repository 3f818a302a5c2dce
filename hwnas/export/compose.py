"""Compose the ONNX graph of a network from the graphs of its segments, which is much faster than exporting it.

A network with `segments()` consists of named modules that run one after another, each with one tensor in and one out.
The networks of a search space have the same kinds of segments in many sizes, so:

1. A segment is exported by torch with its weights as inputs of the graph (`hwnas.export.dynamo`). Such a graph is the
   same for all segments of its structure and sizes, whatever their weights are.
2. The numbers in the graph, reshape targets for example, become blanks of a template (`hwnas.export.graph_template`).
3. Rules that give these numbers from the sizes of the segment, such as its width and its number of heads, are inferred
   from the instances that were exported so far (`hwnas.export.size_rules`).
4. A segment of a new size is filled in without an export if all rules that fit these instances give the same numbers.
   Otherwise it is exported, and teaches its template (`hwnas.export.templates`).
5. The graphs are joined, and the weights are added (`hwnas.export.assembly`).

A head for detection or segmentation reads the outputs of several segments. What reads each of them, a norm and a
convolution, is a segment like others; the rest is the same in all networks of a space and is exported once.

The first graph that a template infers is compared with torch; without onnxruntime, which runs it, nothing is inferred
by a template that was not verified before. The outputs of the composed network are compared with
torch's wherever one is exported to a file (`hwnas.export.parity`) or measured.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.export.assembly import GraphAssembly
from hwnas.export.dynamo import export_joint, export_segment
from hwnas.export.graph_template import GraphInstance, UnsupportedGraphError
from hwnas.export.onnx_session import can_run_graphs, run_graph, widened
from hwnas.export.parity import EXACT_TOLERANCE
from hwnas.export.precision import precision_type
from hwnas.export.rounding import with_rounded_weights
from hwnas.export.size_rules import Number
from hwnas.export.structure import OpaqueError, Structure, read_structure
from hwnas.export.templates import SegmentTemplate, TemplateStore, default_store

_log = logging.getLogger(__name__)


@runtime_checkable
class Segmented(Protocol):
    """A network that consists of modules which run one after another."""

    def segments(self) -> dict[str, nn.Module]:
        """Return the modules by name, in the order in which they run."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A composed graph and the origin of its segments."""

    model: onnx.ModelProto
    segments: int
    """The number of segments; the readers of feature maps count as some."""
    reused: int
    """The number of segments that were filled in from a template."""
    exported: tuple[str, ...]
    """Segments that were exported, because their template was new or did not determine them."""
    opaque: Mapping[str, str]
    """Those of the exported segments that no template can hold, with the reason: they are exported every time."""
    seconds: float


def compose(
    network: nn.Module,
    *,
    input_shape: Sequence[int],
    batch: int = 1,
    precision: str = "fp32",
    store: TemplateStore | None = None,
) -> Composition:
    """Compose the graph of a network, with the input `images` and the output `logits`.

    Args:
        network: A network with `segments()`.
        input_shape: Shape of one image: channels, height, width.
        batch: Batch size that the graph accepts.
        precision: Precision of weights and computation; images and logits are float32.
        store: Templates to use and to extend; None for those in the user's cache.

    Raises:
        InputError: The network has no segments, or torch or ONNX cannot express one of them.
    """
    if not isinstance(network, Segmented):
        hint = "exporter='dynamo', which takes any module"
        raise InputError("a network must have segments() to be composed", got=type(network).__name__, hint=hint)
    start = time.perf_counter()
    composer = _Composer(precision=precision, store=store or default_store())
    graph = GraphAssembly(precision=precision, shape=(batch, *input_shape))
    if getattr(network, "task_head", None) is None:
        for name, segment in network.segments().items():
            graph.append(name, composer.instance(name, segment, graph.shape), segment)
    else:
        _append_with_maps(graph, network, composer, image_size=input_shape[-1])
    _log.debug(
        "composed %d segments, %d from templates, exported: %s",
        composer.reused + len(composer.exported),
        composer.reused,
        composer.exported,
    )
    return Composition(
        model=graph.finish(),
        segments=composer.reused + len(composer.exported),
        reused=composer.reused,
        exported=tuple(composer.exported),
        opaque=composer.opaque,
        seconds=time.perf_counter() - start,
    )


def _append_with_maps(graph: GraphAssembly, network: Any, composer: "_Composer", *, image_size: int) -> None:
    """Append a network whose head reads feature maps: segments, the reader of each map, and the rest of the head."""
    *names, head = network.segments()
    readers = network.map_readers(image_size)
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names[: max(map(names.index, readers)) + 1]:
        segment = network.get_submodule(name)
        graph.append(name, composer.instance(name, segment, graph.shape), segment)
        outputs[name] = graph.last, graph.shape
    read: list[tuple[str, tuple[int, ...]]] = []
    for number, (name, reader) in enumerate(readers.items()):
        graph.last, graph.shape = outputs[name]
        own = f"{head}.read.{number}"
        graph.append(own, composer.instance(own, reader, graph.shape), reader)
        read.append((graph.last, graph.shape))
    rest = network.head_on_levels()
    instance = composer.joint(head, rest, [shape for _, shape in read])
    graph.append(head, instance, rest, inputs=[name for name, _ in read])


_JOINT: dict[tuple[object, ...], GraphInstance] = {}
"""Graphs of heads on levels, by what determines them: one for each space, setting and process."""


@dataclass(kw_only=True)
class _Composer:
    """Fills in or exports the graph of one segment after another, and keeps count."""

    precision: str
    store: TemplateStore
    reused: int = 0
    exported: list[str] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)

    def instance(self, name: str, segment: nn.Module, shape: Sequence[int]) -> GraphInstance:
        """Return the graph of a segment for an input of this shape."""
        try:
            structure = read_structure(segment, input_shape=shape, dtype=precision_type(self.precision))
        except OpaqueError as error:
            self.opaque[name] = str(error)
            return self._export(name, segment, shape, SegmentTemplate(), {})
        template = self.store.get(structure.text)
        instance = template.find(structure.sizes) or self._infer(segment, shape, template, structure)
        if instance is not None:
            self.reused += 1
            return instance
        instance = self._export(name, segment, shape, template, structure.sizes)
        self.store.save(structure.text)
        return instance

    def joint(self, name: str, rest: Any, shapes: Sequence[tuple[int, ...]]) -> GraphInstance:
        """Return the graph of a head on the levels of its pyramid."""
        key = (*rest.key, self.precision, tuple(shapes))
        if key in _JOINT:
            self.reused += 1
            return _JOINT[key]
        self.exported.append(name)
        model = export_joint(rest, input_shapes=shapes, dtype=precision_type(self.precision))
        try:
            _JOINT[key] = SegmentTemplate().learn({}, model)
        except UnsupportedGraphError as error:
            message = f"the segment {name} must have a graph of plain ONNX operators to be composed"
            raise InputError(message, got=error, hint="exporter='dynamo'") from error
        return _JOINT[key]

    def _infer(
        self, segment: nn.Module, shape: Sequence[int], template: SegmentTemplate, structure: Structure
    ) -> GraphInstance | None:
        """Return the graph that the template infers, unless its first inference proves wrong."""
        instance = template.infer(structure.sizes)
        if instance is None:
            return None
        if not template.is_verified:
            if not can_run_graphs():  # what torch exports is right without a check
                return None
            template.is_verified = self._equals_torch(segment, shape, instance)
            template.is_refuted = not template.is_verified
            self.store.save(structure.text)
        if template.is_refuted:  # by this process, or by another one whose template was merged when saving
            return None
        template.remember(structure.sizes, instance)
        return instance

    def _export(
        self,
        name: str,
        segment: nn.Module,
        shape: Sequence[int],
        template: SegmentTemplate,
        sizes: Mapping[str, Number],
    ) -> GraphInstance:
        self.exported.append(name)
        model = export_segment(segment, input_shape=shape, dtype=precision_type(self.precision))
        try:
            return template.learn(sizes, model)
        except UnsupportedGraphError as error:
            raise InputError(
                f"the segment {name} must have a graph of plain ONNX operators to be composed",
                got=error,
                hint="exporter='dynamo'",
            ) from error

    def _equals_torch(self, segment: nn.Module, shape: Sequence[int], instance: GraphInstance) -> bool:
        """Return True if a graph gives torch's output for the segment.

        Both compute in float32 with weights rounded to the precision: in the precision itself, rounding differs between
        torch and a runtime, and could hide a wrong number.
        """
        x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
        graph = GraphAssembly(precision=self.precision, shape=shape)
        graph.append("segment", instance, segment)
        with torch.inference_mode():
            expected = with_rounded_weights(segment, precision=self.precision)(x).numpy()
        outputs = run_graph(widened(graph.finish()), x.numpy())
        if outputs.shape != expected.shape:
            return False
        return bool(np.abs(outputs - expected).max() <= EXACT_TOLERANCE * np.abs(expected).max())
