"""Intel's GPUs and NPUs, through a stand-in for OpenVINO."""

import subprocess
import sys

import pytest

from hwnas.cli.doctor import _machine_rows as machine_rows
from hwnas.devices import detect, require, resolve
from hwnas.devices.cpu import CPUINFO
from hwnas.devices.intel import VENDOR_FILES, accelerators, detect_accelerators
from hwnas.devices.machine import Machine
from hwnas.errors import UnknownNameError
from hwnas.pipeline.doctor import doctor
from hwnas.profile.environment import environment_facts
from hwnas.runs import CommandOutcome, environment
from tests.devices.intel_core import IntelCore
from tests.records.rows import make_setting

FILES = {CPUINFO: "model name : Toy\nflags : avx2\n", VENDOR_FILES[0]: "0x8086\n"}
GPU = CommandOutcome(output="NVIDIA H200, 143771 MiB, 570.1, GPU-1\n")
NO_GPU = CommandOutcome(failure="nvidia-smi is not installed")


def machine(*devices: str, nvidia: CommandOutcome = NO_GPU) -> Machine:
    return detect(
        run=lambda _: nvidia,
        read=FILES.get,
        environ={},
        num_cores=2,
        architecture="x86_64",
        make_core=lambda: IntelCore("CPU", *devices),
    )


def test_names_say_the_model_or_the_architecture_where_a_name_stands_for_several() -> None:
    found = accelerators(IntelCore("CPU", "GPU.0", "GPU.1", "GPU", "NPU"))
    assert [(item.plugin, item.device.name, item.device.kind) for item in found] == [
        ("GPU.0", "intel-gpu-iris-xe-v12-0-0", "gpu"),
        ("GPU.1", "intel-gpu-arc-a770", "gpu"),
        ("GPU", "intel-gpu-arc-v12-71-4", "gpu"),
        ("NPU", "intel-npu-3720", "npu"),
    ]
    assert [item.driver for item in found] == ["", "", "", "1738334590"]


def test_openvino_is_not_loaded_where_the_system_lists_no_device_of_intel() -> None:
    def forbidden() -> IntelCore:
        raise AssertionError("openvino was loaded")

    nvidia = {VENDOR_FILES[0]: "0x10de\n"}
    assert detect_accelerators(read=nvidia.get, make_core=forbidden) == ((), ())


def test_openvino_sends_no_statistics() -> None:
    program = "from hwnas.devices.intel import import_openvino; import sys; import_openvino(); "
    program += "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_openvino_cannot_use_is_noted() -> None:
    _, notes = detect_accelerators(read=FILES.get, make_core=lambda: None)
    assert "pip install 'hwnas[openvino]'" in notes[0]
    _, notes = detect_accelerators(read=FILES.get, make_core=lambda: IntelCore("CPU"))
    assert "a driver is missing" in notes[0]


def test_an_accelerator_is_a_device_that_is_taken_by_its_name_only() -> None:
    both, alone = machine("GPU.1", "NPU", nvidia=GPU), machine("GPU.1", "NPU")
    assert [item.name for item in both.devices] == ["h200", "intel-gpu-arc-a770", "intel-npu-3720", "toy-2c-avx2"]
    assert resolve("auto", machine=both) == "h200"
    assert resolve("auto", machine=alone) == resolve("cpu", machine=alone) == "toy-2c-avx2"
    assert require("intel-npu-3720", machine=alone).kind == "npu"
    assert not require("intel-gpu-arc-a770", machine=alone).has_cuda


def test_an_accelerator_of_another_machine_keeps_its_name() -> None:
    assert resolve("intel-gpu-arc-b580", machine=machine()) == "intel-gpu-arc-b580"
    with pytest.raises(UnknownNameError):
        resolve("intel-tpu-1", machine=machine())


def test_its_driver_is_in_the_environment_of_its_profiles() -> None:
    here = machine("GPU.1", "NPU")
    drivers = [
        environment_facts(
            make_setting(device=name, runtime="openvino"), machine=here, software=environment(), runtime={}
        )["driver"]
        for name in ("intel-npu-3720", "intel-gpu-arc-a770")
    ]
    assert drivers == ["1738334590", "unknown"]


def test_the_doctor_lists_accelerators_and_keeps_the_default_device() -> None:
    report = doctor(machine=machine("GPU.1", "NPU"))
    assert report.default_device == "toy-2c-avx2"
    rows = dict(machine_rows(report))
    assert rows["GPU.1"] == "Intel(R) Arc(TM) A770 Graphics (dGPU) (intel-gpu-arc-a770), by OpenVINO"
    assert rows["NPU"] == "Intel(R) AI Boost (intel-npu-3720), by OpenVINO"
