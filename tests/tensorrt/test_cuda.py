"""Streams and recordings on a real GPU; the double's own stand-in keeps the same contract."""

import pytest
import torch

from hwnas.export.tensorrt.cuda import TorchCuda

pytestmark = pytest.mark.gpu


def test_a_recording_runs_again_on_what_its_memory_holds() -> None:
    cuda = TorchCuda()
    source = cuda.place(torch.arange(4.0))
    target = cuda.empty((4,), torch.float32)
    with cuda.current():
        torch.mul(source, 2, out=target)
    cuda.wait()
    recording = cuda.record(lambda: torch.mul(source, 2, out=target))
    source.add_(1)
    torch.cuda.synchronize()
    with cuda.current():
        recording.replay()
    cuda.wait()
    assert target.tolist() == [2.0, 4.0, 6.0, 8.0]
    recording.reset()


def test_a_copy_is_contiguous_and_apart() -> None:
    cuda, images = TorchCuda(), torch.arange(6.0).reshape(2, 3).T
    placed = cuda.place(images)
    assert placed.is_cuda
    assert placed.is_contiguous()
    assert placed.tolist() == images.tolist()


def test_streams_have_handles_of_their_own() -> None:
    assert TorchCuda().handle != 0
    assert TorchCuda().handle != torch.cuda.default_stream().cuda_stream
