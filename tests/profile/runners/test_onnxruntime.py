"""Sessions of ONNX Runtime on a GPU, without one: runs are queued where the version can do it."""

import contextlib

import pytest
import torch

from hwnas.profile.runners.cuda import CudaClock
from hwnas.profile.runners.onnxruntime import CudaSession, QueuedCudaSession, gpu_session
from hwnas.profile.runners.runner import QueuedSession
from tests.profile.simulated_gpu import SimulatedGpu


@pytest.mark.parametrize(
    ("version", "kind"), [("1.23.2", CudaSession), ("1.28.0", QueuedCudaSession), ("1.31.1", QueuedCudaSession)]
)
def test_replays_are_queued_by_versions_that_do_not_wait_for_each(version: str, kind: type[CudaSession]) -> None:
    assert gpu_session(version) is kind
    assert isinstance(object.__new__(kind), QueuedSession) == (kind is QueuedCudaSession)


def test_queued_runs_are_those_of_the_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGpu(monkeypatch)
    streams: list[object] = []

    @contextlib.contextmanager
    def on(stream: object):  # type: ignore[no-untyped-def]
        streams.append(stream)
        yield

    monkeypatch.setattr(torch.cuda, "stream", on)
    session = object.__new__(QueuedCudaSession)
    monkeypatch.setattr(session, "_stream", "the stream", raising=False)
    monkeypatch.setattr(session, "_clock", CudaClock(), raising=False)
    monkeypatch.setattr(session, "_run", lambda: gpu.launch(device_ns=100_000, host_ns=30_000))
    called: list[bool] = []
    sample = session.run_queued(4, delay_ns=1_000_000, while_running=lambda: called.append(True))
    assert (sample.device_ns, sample.host_ns) == (100_000, 30_000)
    assert (called, streams) == ([True], ["the stream"])
