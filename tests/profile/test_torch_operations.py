from types import SimpleNamespace

import pytest

from hwnas.profile.torch_operations import kinds_of

EVENTS = [
    SimpleNamespace(key="aten::linear", count=20, self_cpu_time_total=0.0, self_device_time_total=0.0),
    SimpleNamespace(key="aten::addmm", count=20, self_cpu_time_total=4000.0, self_device_time_total=600.0),
    SimpleNamespace(key="aten::gelu", count=10, self_cpu_time_total=1000.0, self_device_time_total=1800.0),
    SimpleNamespace(key="cudaLaunchKernel", count=30, self_cpu_time_total=9000.0, self_device_time_total=0.0),
]


def test_operations_of_one_kind_share_its_time() -> None:
    found = kinds_of(EVENTS, runs=10, on_gpu=False)
    assert [(item.kind, item.time_ms) for item in found] == [("addmm", 0.2), ("addmm", 0.2), ("gelu", 0.1)]
    assert [item.share for item in found] == pytest.approx([0.4, 0.4, 0.2])


def test_on_a_gpu_the_time_of_kernels_counts() -> None:
    found = kinds_of(EVENTS, runs=10, on_gpu=True)
    assert [(item.kind, item.time_ms) for item in found] == [("gelu", 0.18), ("addmm", 0.03), ("addmm", 0.03)]
