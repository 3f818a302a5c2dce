"""Test doubles of the listed versions of TensorRT, in place of the library."""

import sys
from dataclasses import dataclass
from typing import Any

import pytest

from hwnas.export.tensorrt import GpuFacts, LibraryName
from tests.export.tensorrt.api_list import RTX_VERSION, VERSIONS
from tests.export.tensorrt.behaviour import Library
from tests.export.tensorrt.double import make_double
from tests.export.tensorrt.fake_cuda import FakeCuda

ADA = GpuFacts(device="l4", reported="Test GPU", compute_capability="8.9", driver="600.1", cuda="13.2")
GPU = GpuFacts(device="test", reported="Test GPU", compute_capability="9.0", driver="600.1", cuda="13.2")


@dataclass
class Double:
    trt: Any
    library: Library
    gpu: GpuFacts = GPU
    name: LibraryName = "tensorrt"

    @property
    def major(self) -> int:
        return self.library.major

    def cuda(self) -> FakeCuda:
        return FakeCuda(self.library.streams)


def put_in_place(version: str, monkeypatch: pytest.MonkeyPatch) -> Double:
    module, library = make_double(version)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    if version == RTX_VERSION:
        return Double(module, library, gpu=ADA, name="tensorrt-rtx")
    return Double(module, library)


@pytest.fixture(params=VERSIONS)
def double(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Double:
    """Each version in turn."""
    return put_in_place(request.param, monkeypatch)


@pytest.fixture
def rtx_double(monkeypatch: pytest.MonkeyPatch) -> Double:
    """TensorRT for RTX on an invented GPU that it builds for."""
    return put_in_place(RTX_VERSION, monkeypatch)


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> Double:
    """The newest version alone, for what does not depend on it."""
    return put_in_place(max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")]), monkeypatch)
