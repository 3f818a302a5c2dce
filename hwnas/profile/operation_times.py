"""Where the time of one network goes: ONNX Runtime's own profile, operation by operation."""

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
from hwnas.profile.runners.preparation import DTYPES, configure_torch, copy_module, device_of, onnx_graph
from hwnas.profile.statistics import QUANTILE
from hwnas.records import Setting

_WARM_RUNS = 3
_SUFFIX = "_kernel_time"
_ENDS = "/.:_"
"""What may stand between the name of a segment and the rest of a node's name."""


@dataclass(frozen=True, kw_only=True)
class OperationTime:
    """One node of the optimised graph."""

    name: str
    kind: str
    """ONNX Runtime's name of the operation: 'MatMul', 'FusedMatMul', 'LayerNormalization'."""
    segment: str
    """The segment of the network that it belongs to; empty where its name does not say."""
    time_ms: float
    """The 20 % quantile of its runs."""
    share: float
    """Of the sum of all nodes."""


def operation_times(
    module: nn.Module, images: Tensor, setting: Setting, *, runs: int = 20
) -> tuple[OperationTime, ...]:
    """The nodes of a network in the order in which they run, on the CPU provider.

    The profiler itself costs time, so the sum is somewhat above the latency; the shares are what counts.
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
    """The nodes in a profile's events; of each the last `runs` runs count."""
    durations: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            name = event["name"].removesuffix(_SUFFIX)
            durations[name].append(float(event["dur"]) / 1e3)
            kinds[name] = str(event["args"]["op_name"])
    times = {name: float(np.quantile(values[-runs:], QUANTILE)) for name, values in durations.items()}
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
    """The longest name of a segment that a node's name begins with, or nothing."""
    fits = [name for name in segments if node.startswith(name) and node[len(name) : len(name) + 1] in tuple(_ENDS)]
    return max(fits, key=len, default="")


def _segments(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's segments, if it says them."""
    named: Any = getattr(module, "segments", dict)
    return tuple(named())


_WARM_RUNS = 3
_PREFIX = "aten::"


def torch_operation_times(
    module: nn.Module, images: Tensor, setting: Setting, *, runs: int = 10
) -> tuple[OperationTime, ...]:
    """The operations of a network by kind, the longest first: on a GPU the time of their kernels, on a CPU their own.

    The times are means of one run. The profiler itself costs time on a CPU, so the shares are what counts.
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
    """One row for each operation in the profiler's averages, those of one kind with equal times, the longest first.

    What took no time of its own, because it only calls others, is left out.
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
