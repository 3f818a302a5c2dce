"""Where a network's time goes."""

from types import SimpleNamespace

import pytest
import torch

from hwnas.devices import detect
from hwnas.profile.operation_times import match_segment, operation_times, parse_onnxruntime_events, parse_torch_averages
from tests.records.rows import make_setting

SEGMENTS = ("stem", "blocks.1", "blocks.10", "head")


@pytest.mark.parametrize(
    ("node", "segment"),
    [
        ("blocks.1/MatMul_3", "blocks.1"),
        ("blocks.10/MatMul", "blocks.10"),
        ("blocks.10.node_linear", "blocks.10"),
        ("stem", ""),
        ("stemming/Add", ""),
        ("node_linear_7", ""),
    ],
)
def test_the_segment_of_a_node(node: str, segment: str) -> None:
    assert match_segment(node, SEGMENTS) == segment


def test_events_become_times_and_shares() -> None:
    def event(name: str, kind: str, microseconds: int, category: str = "Node") -> dict[str, object]:
        return {"cat": category, "name": name, "dur": microseconds, "args": {"op_name": kind}}

    events = [
        {"cat": "Session", "name": "model_run", "dur": 9000},
        event("stem/Conv_kernel_time", "Conv", 90_000),
        event("head/Gemm_fence_before", "Gemm", 5),
    ]
    for run in range(6):
        events += [event("stem/Conv_kernel_time", "Conv", 3000 + run), event("head/Gemm_kernel_time", "Gemm", 1000)]
    stem, head = parse_onnxruntime_events(events, runs=6, segments=SEGMENTS)
    assert (stem.name, stem.segment, stem.kind) == ("stem/Conv", "stem", "Conv")
    assert stem.time_ms == pytest.approx(3.0005)
    assert stem.share == pytest.approx(3.0005 / 4.0005)
    assert (head.segment, head.kind, head.time_ms) == ("head", "Gemm", 1)
    assert parse_onnxruntime_events([], runs=6) == ()


def test_the_larger_product_takes_the_larger_share() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 4)).eval()
    setting = make_setting(device=detect().cpu.slug, runtime="onnxruntime")
    times = operation_times(module, torch.randn(256, 64), setting, runs=5)
    assert sum(entry.share for entry in times) == pytest.approx(1)
    first, last = (entry for entry in times if entry.kind in ("Gemm", "MatMul", "FusedGemm"))
    assert first.share > last.share


EVENTS = [
    SimpleNamespace(key="aten::linear", count=20, self_cpu_time_total=0.0, self_device_time_total=0.0),
    SimpleNamespace(key="aten::addmm", count=20, self_cpu_time_total=4000.0, self_device_time_total=600.0),
    SimpleNamespace(key="aten::gelu", count=10, self_cpu_time_total=1000.0, self_device_time_total=1800.0),
    SimpleNamespace(key="cudaLaunchKernel", count=30, self_cpu_time_total=9000.0, self_device_time_total=0.0),
]


def test_operations_of_one_kind_share_its_time() -> None:
    found = parse_torch_averages(EVENTS, runs=10, on_gpu=False)
    assert [(item.kind, item.time_ms) for item in found] == [("addmm", 0.2), ("addmm", 0.2), ("gelu", 0.1)]
    assert [item.share for item in found] == pytest.approx([0.4, 0.4, 0.2])


def test_on_a_gpu_the_time_of_kernels_counts() -> None:
    found = parse_torch_averages(EVENTS, runs=10, on_gpu=True)
    assert [(item.kind, item.time_ms) for item in found] == [("gelu", 0.18), ("addmm", 0.03), ("addmm", 0.03)]
