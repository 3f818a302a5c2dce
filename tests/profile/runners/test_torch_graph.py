"""CUDA graphs of torch: the memory that is counted, with a stand-in for torch.cuda, and on a real GPU."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch import nn

from hwnas.devices import detect
from hwnas.profile.runners import torch as runner_module
from hwnas.profile.runners.torch import GraphSession, TorchGraphRunner
from tests.records.rows import make_setting

SETTING = make_setting(device="h200", runtime="torch-graph")


class Stream:
    """A stream that counts nothing but its name."""

    def wait_stream(self, other: object) -> None:
        return

    def synchronize(self) -> None:
        return


class Memory:
    """Counts bytes as torch's allocator does: each stream that multiplies keeps a workspace."""

    WORKSPACE = 32 << 20

    def __init__(self) -> None:
        self.current = Stream()
        self.allocated = 0
        self.workspaces: set[Stream] = set()
        self.captured_on: list[Stream] = []

    def multiply(self, *arguments: object) -> str:
        if self.current not in self.workspaces:
            self.workspaces.add(self.current)
            self.allocated += self.WORKSPACE
        return "logits"

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph: object, stream: Stream | None = None) -> Iterator[None]:
        with self.stream(stream or Stream()):
            self.captured_on.append(self.current)
            yield


class Images:
    """A batch that is on every device."""

    def to(self, *arguments: object) -> Self:
        return self


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    memory = Memory()
    replaced: dict[str, Callable[..., Any]] = {
        "Stream": Stream,
        "stream": memory.stream,
        "graph": memory.graph,
        "CUDAGraph": lambda: SimpleNamespace(reset=lambda: None),
        "Event": lambda enable_timing: None,
        "current_stream": lambda: memory.current,
        "memory_allocated": lambda: memory.allocated,
        "max_memory_allocated": lambda: memory.allocated,
        "reset_peak_memory_stats": lambda: None,
        "synchronize": lambda: None,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(runner_module, "copy_module", lambda module, setting: memory.multiply)
    monkeypatch.setattr(runner_module, "_allocate_workspaces", memory.multiply)
    runner_module._capture_stream.cache_clear()
    yield memory
    runner_module._capture_stream.cache_clear()


def test_no_network_pays_for_the_workspace_of_cublas(memory: Memory) -> None:
    sessions = [GraphSession(nn.Identity(), Images(), SETTING) for _ in range(3)]  # type: ignore[arg-type]
    assert [session.memory_mb() for session in sessions] == [0, 0, 0]
    assert memory.allocated == Memory.WORKSPACE
    assert len(set(memory.captured_on)) == 1


@pytest.mark.gpu
def test_equal_networks_take_equal_memory() -> None:
    setting = make_setting(device=detect().gpus[0].device.name, runtime="torch-graph", precision="fp16", batch=8)
    layers = [nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 256)) for _ in range(4)]
    sessions = [TorchGraphRunner().prepare(module, torch.ones(8, 256), setting) for module in layers]
    found = [session.memory_mb() or 0.0 for session in sessions]
    assert max(found) - min(found) < 1
