"""Profile a network by the profiler of its runtime, and find its bottlenecks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwnas.records import Setting, Subject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwnas.profile.operation_times import OperationTime

_UNNAMED = "(unnamed)"
"""Nodes whose names contain no segment: fused or shared ones."""

_MATMULS = (
    "Attention",
    "Conv",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    "MultiHeadAttention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_efficient_attention",
    "_flash_attention_forward",
    "_efficient_attention_forward",
    "_scaled_dot_product_flash_attention_for_cpu",
    "addmm",
    "bmm",
    "baddbmm",
    "convolution",
    "cudnn_convolution",
    "linear",
    "mkldnn_convolution",
    "mm",
    "thnn_conv2d",
)
_MOVES = (
    "Cast",
    "Concat",
    "Expand",
    "Gather",
    "GatherElements",
    "GatherND",
    "Pad",
    "Reshape",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    "cat",
    "clone",
    "copy_",
    "index",
)
_MIN_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class TimedNodes:
    """Total time of the nodes of one kind, or of one segment, in the graph that a runtime executed."""

    name: str
    time_ms: float
    share: float
    num_nodes: int


@dataclass(frozen=True, kw_only=True)
class RuntimeProfile:
    """Times of a network by kind of node and by segment, as reported by the runtime's profiler."""

    runtime: str
    total_ms: float
    by_kind: tuple[TimedNodes, ...]
    by_segment: tuple[TimedNodes, ...]
    """Empty if the names of the nodes contain no segment."""


def measured_bottlenecks(profile: RuntimeProfile, *, macs: int) -> tuple[str, ...]:
    """Describe the bottlenecks in measured times.

    Args:
        profile: The measured times.
        macs: MACs of the batch.
    """
    total_ms = profile.total_ms or 1.0
    matmuls_ms = sum(nodes.time_ms for nodes in profile.by_kind if nodes.name in _MATMULS)
    moves = [nodes for nodes in profile.by_kind if nodes.name in _MOVES]
    sentences = []
    if matmuls_ms:
        rate = 2 * macs / matmuls_ms / 1e6
        sentences.append(
            f"matrix products take {matmuls_ms / total_ms:.0%} of the measured time, at {rate:.0f} GFLOP/s"
        )
    share = sum(nodes.time_ms for nodes in moves) / total_ms
    if share >= _MIN_SHARE:
        names = ", ".join(nodes.name for nodes in moves[:4])
        number = sum(nodes.num_nodes for nodes in moves)
        sentences.append(f"{number} nodes that only move elements ({names}) take {share:.0%} of the measured time")
    return tuple(sentences)


def runtime_profile(subject: Subject, setting: Setting) -> RuntimeProfile | None:
    """Profile a network with random weights.

    ONNX Runtime's profiler is used on a CPU. It reports no kernel times on a GPU, and lacks some precisions on a CPU;
    torch's profiler is used there.

    Args:
        subject: The network.
        setting: Device, precision, batch and threads; the runtime is replaced.

    Returns:
        The profile, or None if no profiler is available for the device.
    """
    for runtime, times in (("onnxruntime", _onnxruntime_times), ("torch", _torch_times)):
        candidate = replace(setting, deployment=replace(setting.deployment, runtime=runtime))
        if _is_available(candidate):
            return _profile(subject, candidate, times)
    return None


_Times = Callable[["nn.Module", "Tensor", Setting], Sequence["OperationTime"]]


def _is_available(setting: Setting) -> bool:
    from hwnas.profile.runners.runner import load_runner
    from hwnas.profile.runners.this_machine import device_of

    device, runner = device_of(setting), load_runner(setting.runtime)
    if device.kind != "cpu" and setting.runtime == "onnxruntime":
        return False
    return runner.available(device).available and runner.supports(setting).available


def _profile(subject: Subject, setting: Setting, times: _Times) -> RuntimeProfile:
    from hwnas.profile.networks import build_subject, seeded_images

    module = build_subject(subject, seed=0)
    nodes = times(module, seeded_images(subject, batch=setting.batch, seed=0), setting)
    named = [(node.segment or _UNNAMED, node.time_ms) for node in nodes]
    return RuntimeProfile(
        runtime=setting.runtime,
        total_ms=sum(node.time_ms for node in nodes),
        by_kind=sum_by_name([(node.kind, node.time_ms) for node in nodes]),
        by_segment=sum_by_name(named) if any(node.segment for node in nodes) else (),
    )


def _onnxruntime_times(module: "nn.Module", images: "Tensor", setting: Setting) -> Sequence["OperationTime"]:
    from hwnas.profile.operation_times import operation_times

    return operation_times(module, images, setting)


def _torch_times(module: "nn.Module", images: "Tensor", setting: Setting) -> Sequence["OperationTime"]:
    from hwnas.profile.operation_times import torch_operation_times

    return torch_operation_times(module, images, setting)


def sum_by_name(nodes: Sequence[tuple[str, float]]) -> tuple[TimedNodes, ...]:
    """Sum the times of (name, time) pairs by name, the longest first."""
    times: dict[str, list[float]] = {}
    for name, time_ms in nodes:
        times.setdefault(name, []).append(time_ms)
    total_ms = sum(time_ms for _, time_ms in nodes) or 1.0
    totals = [
        TimedNodes(name=name, time_ms=sum(members), share=sum(members) / total_ms, num_nodes=len(members))
        for name, members in times.items()
    ]
    return tuple(sorted(totals, key=lambda node: -node.time_ms))
