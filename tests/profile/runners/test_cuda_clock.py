"""The clock of GPU runners on a real GPU."""

from statistics import median

import pytest
import torch

from hwnas.profile.runners.cuda import CudaClock

pytestmark = pytest.mark.gpu

_DELAY_NS = 100_000


@pytest.fixture
def graph() -> torch.cuda.CUDAGraph:
    """Some hundred small kernels, about as long as a small network at batch 1."""
    values = torch.ones(1024, 256, device="cuda")
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(200):
            values = values * 1.0
    for _ in range(200):
        graph.replay()
    return graph


def test_launch_cost_is_not_counted(graph: torch.cuda.CUDAGraph) -> None:
    clock = CudaClock()
    alone = [clock.time(graph.replay).device_ns or 0 for _ in range(50)]
    behind = [clock.time_queued(graph.replay, delay_ns=_DELAY_NS).device_ns or 0 for _ in range(50)]
    print(f"alone {median(alone)} ns, behind a delay {median(behind)} ns")
    assert median(behind) < median(alone)


def test_samples_of_any_length_agree(graph: torch.cuda.CUDAGraph) -> None:
    clock = CudaClock()
    few, many = (
        median(clock.time_queued(graph.replay, runs=runs, delay_ns=_DELAY_NS).device_ns or 0 for _ in range(20))
        for runs in (5, 50)
    )
    assert abs(few / many - 1) < 0.01
