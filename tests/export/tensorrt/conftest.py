"""Test doubles of the listed versions of TensorRT, in place of the library."""

import sys
from dataclasses import dataclass
from typing import Any

import pytest

from hwnas.export.tensorrt import GpuFacts
from tests.export.tensorrt.api_list import VERSIONS
from tests.export.tensorrt.behaviour import Library
from tests.export.tensorrt.double import make_double
from tests.export.tensorrt.fake_cuda import FakeCuda

GPU = GpuFacts(device="test", reported="Test GPU", compute_capability="9.0", driver="600.1", cuda="13.2")


@dataclass
class Double:
    trt: Any
    library: Library
    gpu: GpuFacts = GPU

    @property
    def major(self) -> int:
        return self.library.major

    def cuda(self) -> FakeCuda:
        return FakeCuda(self.library.streams)


def put_in_place(version: str, monkeypatch: pytest.MonkeyPatch) -> Double:
    module, library = make_double(version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return Double(module, library)


@pytest.fixture(params=VERSIONS)
def double(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Double:
    """Each version in turn."""
    return put_in_place(request.param, monkeypatch)


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> Double:
    """The newest version alone, for what does not depend on it."""
    return put_in_place(max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")]), monkeypatch)
