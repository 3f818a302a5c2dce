"""The graph that a runtime executes, and what in it a lower precision does not speed up."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.records import Setting, Subject

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOWERED: Mapping[str, frozenset[str]] = {
    "int8": frozenset({"int8"}),
    "int8-dynamic": frozenset({"int8"}),
    "bf16": frozenset({"bf16"}),
    "fp16": frozenset({"fp16"}),
}
"""Precisions of nodes that a precision of a network speeds up."""

_INT8_PRODUCTS = (
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)
"""ONNX Runtime's operators of int8."""
_PRODUCTS = (
    *_INT8_PRODUCTS,
    *("Attention", "Conv", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MultiHeadAttention"),
    *("Convolution", "FullyConnected", "ScaledDotProductAttention"),
)
"""Matrix products, by the names of ONNX Runtime and of OpenVINO."""
_UNFUSED = ("DequantizeLinear", "FakeQuantize")
"""Operators of Q/DQ that a runtime merges into the products that it computes in int8."""
_CONVERSIONS = ("Cast", "Convert", "QuantizeLinear", "Reorder", "ReorderInput", "ReorderOutput")
"""Nodes that change the precision or the layout of a tensor, and compute nothing."""
_OPENVINO_PRECISIONS = {"i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "fp16", "f32": "fp32"}


@dataclass(frozen=True, kw_only=True)
class ExecutedNode:
    """A node of the graph that a runtime executes."""

    kind: str
    """The runtime's name of the operation."""
    precision: str
    """The precision that it computes in, by the names of hwnas."""


def precision_limits(subject: Subject, setting: Setting) -> tuple[str, ...]:
    """Describe what a lower precision does not speed up in a network, for each runtime that runs it on the device.

    Args:
        subject: The network, whose weights are random.
        setting: Device, precision, batch and threads; the runtime is replaced.
    """
    if setting.precision not in _LOWERED:
        return ()
    from hwnas.profile.networks import build_subject, seeded_images
    from hwnas.profile.runners.runner import load_runner
    from hwnas.profile.runners.this_machine import device_of

    sentences: list[str] = []
    for runtime, find_nodes in _RUNTIMES.items():
        candidate = replace(setting, deployment=replace(setting.deployment, runtime=runtime))
        runner, device = load_runner(runtime), device_of(candidate)
        if device.kind == "cpu" and runner.available(device).available and runner.supports(candidate).available:
            images = seeded_images(subject, batch=candidate.batch, seed=0)
            nodes = find_nodes(build_subject(subject, seed=0), images, candidate)
            sentences += [f"{runtime}: {text}" for text in describe_limits(nodes, precision=setting.precision)]
    return tuple(sentences)


def describe_limits(nodes: Sequence[ExecutedNode], *, precision: str) -> tuple[str, ...]:
    """Describe the products that are not in a precision, Q/DQ pairs that did not fuse, and conversions.

    Args:
        nodes: The nodes that a runtime executes.
        precision: The precision that the network was brought to.
    """
    lowered = _LOWERED[precision]
    products = [node for node in nodes if node.kind in _PRODUCTS]
    slow = Counter(f"{node.kind} in {node.precision}" for node in products if node.precision not in lowered)
    sentences = []
    if products:
        number = len(products) - slow.total()
        rest = f"; the others are {_listed(slow)}" if slow else ""
        sentences.append(f"{number} of {len(products)} matrix products run in {'/'.join(sorted(lowered))}{rest}")
    if unfused := Counter(node.kind for node in nodes if node.kind in _UNFUSED):
        sentences.append(f"{_listed(unfused)} did not fuse with a product, which then computes in float")
    if conversions := Counter(node.kind for node in nodes if node.kind in _CONVERSIONS):
        sentences.append(f"{_listed(conversions)} only convert a precision or a layout")
    return tuple(sentences)


def onnxruntime_nodes(module: "nn.Module", images: "Tensor", setting: Setting) -> tuple[ExecutedNode, ...]:
    """Return the nodes of the graph that ONNX Runtime makes of a network on a CPU."""
    import onnx
    import onnxruntime

    from hwnas.profile.runners.onnxruntime import session_options
    from hwnas.profile.runners.preparation import onnx_graph

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(setting)
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        graph = onnx_graph(module, images, setting)
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath)
    # Where it has no kernel in float16, ONNX Runtime casts to float32 around a node; products have one nowhere.
    kinds = [node.op_type for node in optimised.graph.node]
    return tuple(ExecutedNode(kind=kind, precision="int8" if kind in _INT8_PRODUCTS else "fp32") for kind in kinds)


def openvino_nodes(module: "nn.Module", images: "Tensor", setting: Setting) -> tuple[ExecutedNode, ...]:
    """Return the nodes that OpenVINO executes in each run; those that read constants alone run once."""
    from hwnas.profile.runners.openvino import OpenVinoRunner

    model = OpenVinoRunner().compile(module, images, setting).get_runtime_model()
    constants: set[str] = set()
    nodes = []
    for node in model.get_ordered_ops():
        kind, precision = (_text(node.get_rt_info(), key) for key in ("layerType", "runtimePrecision"))
        sources = {value.get_source_output().get_node().get_friendly_name() for value in node.inputs()}
        if kind == "Const" or (sources and sources <= constants):
            constants.add(node.get_friendly_name())
        elif kind not in ("Input", "Output"):
            nodes.append(ExecutedNode(kind=kind, precision=_OPENVINO_PRECISIONS.get(precision, precision)))
    return tuple(nodes)


_RUNTIMES: Mapping[str, Callable[["nn.Module", "Tensor", Setting], Sequence[ExecutedNode]]] = {
    "onnxruntime": onnxruntime_nodes,
    "openvino": openvino_nodes,
}


def _text(info: Any, key: str) -> str:
    value = info[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())
