"""Time the single operations of a network by the profilers of ONNX Runtime and torch."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.profile.runners.onnxruntime import cpu_feed, create_session
from hwnas.profile.runners.preparation import DTYPES, configure_torch, copy_module, onnx_graph
from hwnas.profile.runners.this_machine import device_of
from hwnas.profile.statistics import mean_of_fastest
from hwnas.records import Setting

_WARM_RUNS = 3
_SUFFIX = "_kernel_time"
_PREFIX = "aten::"
_ENDS = "/.:_"
"""Characters that may follow the name of a segment in the name of a node."""


@dataclass(frozen=True, kw_only=True)
class OperationTime:
    """Time of one node of the optimized graph."""

    name: str
    kind: str
    """The runtime's name of the operation, such as 'MatMul' or 'LayerNormalization'."""
    segment: str
    """The segment of the network that it belongs to; empty if its name contains none."""
    time_ms: float
    """For ONNX Runtime the mean of the fastest 30 % of its runs, for torch of all."""
    share: float
    """Fraction of the sum of all nodes."""


def operation_times(
    module: nn.Module, images: Tensor, setting: Setting, *, runs: int = 20
) -> tuple[OperationTime, ...]:
    """Time the nodes of a network with ONNX Runtime on a CPU, in the order in which they run.

    Profiling takes time as well, so the sum exceeds the latency somewhat. The shares are meaningful.

    Args:
        module: The network.
        images: The batch.
        setting: The setting, on a CPU.
        runs: Number of timed runs.

    Raises:
        InputError: The device is not a CPU.
    """
    if device_of(setting).kind != "cpu":
        message = "times of single operations are known of onnxruntime on a CPU only"
        raise InputError(message, got=f"{setting.runtime} on {setting.device}")
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "profile")
        session = create_session(onnx_graph(module, images, setting), setting, profile_to=prefix)
        feed = cpu_feed(session, images)
        for _ in range(_WARM_RUNS + runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return parse_onnxruntime_events(events, runs=runs, segments=_segments(module))


def parse_onnxruntime_events(
    events: Sequence[Mapping[str, Any]], *, runs: int, segments: Collection[str] = ()
) -> tuple[OperationTime, ...]:
    """Convert the events of ONNX Runtime's profiler.

    Args:
        events: The events.
        runs: Number of timed runs; the runs before them are warm-up.
        segments: Names of the segments of the network.
    """
    durations: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            name = event["name"].removesuffix(_SUFFIX)
            durations[name].append(float(event["dur"]) / 1e3)
            kinds[name] = str(event["args"]["op_name"])
    times = {
        name: float(mean_of_fastest(np.asarray(values[-runs:], dtype=np.float64))) for name, values in durations.items()
    }
    total = sum(times.values())
    return tuple(
        OperationTime(
            name=name,
            kind=kinds[name],
            segment=match_segment(name, segments),
            time_ms=time_ms,
            share=time_ms / total if total else 0.0,
        )
        for name, time_ms in times.items()
    )


def match_segment(node: str, segments: Collection[str]) -> str:
    """Return the longest name of a segment that the name of a node begins with, or an empty text."""
    fits = [name for name in segments if node.startswith(name) and node[len(name) : len(name) + 1] in tuple(_ENDS)]
    return max(fits, key=len, default="")


def _segments(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's segments; nothing if it declares none."""
    named: Any = getattr(module, "segments", dict)
    return tuple(named())


def torch_operation_times(
    module: nn.Module, images: Tensor, setting: Setting, *, runs: int = 10
) -> tuple[OperationTime, ...]:
    """Time the operations of a network with torch, the longest first.

    Times are means over the runs: of the kernels on a GPU, and without nested operations on a CPU. Profiling takes time
    as well on a CPU, so the shares are what is meaningful.

    Args:
        module: The network.
        images: The batch.
        setting: Device, precision and threads.
        runs: Number of timed runs.
    """
    from torch.profiler import ProfilerActivity, profile

    configure_torch(setting)
    on_gpu = device_of(setting).kind == "gpu"
    network: Any = copy_module(module, setting)
    batch = images.to("cuda" if on_gpu else "cpu", DTYPES[setting.precision])
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.inference_mode():
        for _ in range(_WARM_RUNS):
            network(batch)
        with profile(activities=activities) as profiler:
            for _ in range(runs):
                network(batch)
            if on_gpu:
                torch.cuda.synchronize()
    return parse_torch_averages(profiler.key_averages(), runs=runs, on_gpu=on_gpu)


def parse_torch_averages(events: Sequence[Any], *, runs: int, on_gpu: bool) -> tuple[OperationTime, ...]:
    """Convert the averages of torch's profiler to one row per operation, the longest first.

    The averages are by kind, so that all operations of a kind get the same time. Operations that only call others, and
    take no time themselves, are left out.

    Args:
        events: The averages.
        runs: Number of timed runs.
        on_gpu: Use the times of kernels.
    """
    times = {
        event.key.removeprefix(_PREFIX): (
            max(1, round(event.count / runs)),
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / runs,
        )
        for event in events
        if event.key.startswith(_PREFIX)
    }
    total = sum(time_ms for _, time_ms in times.values())
    longest = sorted(times.items(), key=lambda pair: -pair[1][1])
    return tuple(
        OperationTime(
            name=f"{kind} {index}", kind=kind, segment="", time_ms=time_ms / number, share=time_ms / number / total
        )
        for kind, (number, time_ms) in longest
        if time_ms > 0
        for index in range(number)
    )
