"""Where the time of one network goes when torch runs it: torch's own profiler, operation by operation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.profile.operations import OperationTime
from hwnas.profile.runners.prepared import DTYPES, configure, copied, device_of
from hwnas.records import Setting

_WARM_RUNS = 3
_PREFIX = "aten::"


def torch_operation_times(
    module: nn.Module, images: Tensor, setting: Setting, *, runs: int = 10
) -> tuple[OperationTime, ...]:
    """The operations of a network by kind, the longest first: on a GPU the time of their kernels, on a CPU their own.

    The times are means of one run. The profiler itself costs time on a CPU, so the shares are what counts.
    """
    from torch.profiler import ProfilerActivity, profile

    configure(setting)
    on_gpu = device_of(setting).kind == "gpu"
    network: Any = copied(module, setting)
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
    return kinds_of(profiler.key_averages(), runs=runs, on_gpu=on_gpu)


def kinds_of(events: Sequence[Any], *, runs: int, on_gpu: bool) -> tuple[OperationTime, ...]:
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
