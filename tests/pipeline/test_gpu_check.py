"""The checks of runtimes on a GPU, on recorded answers of nvidia-smi and versions of libraries."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.cli import doctor as printed
from hwnas.devices import Machine, detect
from hwnas.devices.cpu import CPUINFO
from hwnas.pipeline import doctor as doctor_module
from hwnas.pipeline.doctor import DoctorReport, doctor
from hwnas.pipeline.gpu_check import (
    DRIVER_QUERY,
    PROCESS_QUERY,
    STATE_QUERY,
    GpuReport,
    GpuSoftware,
    GpuState,
    gpu_findings,
    inspect_gpus,
    installed_software,
    is_incomplete,
    read_states,
)
from hwnas.profile.runners.cuda import unsupported_capability
from hwnas.runs import CommandOutcome, Environment

UUID = "GPU-5f3a9c1e-0000"
ANSWERS = {
    "nvidia-smi": f"Tesla V100-SXM2-16GB, 16384 MiB, 550.54.15, {UUID}\n",
    STATE_QUERY[1]: f"{UUID}, 7.0, [N/A], 1290, 1530\n",
    PROCESS_QUERY[1]: f"{UUID}, 4242, /usr/bin/python3, 11264\n{UUID}, 99, [Not Found], [N/A]\n",
    DRIVER_QUERY[1]: "==============NVSMI LOG==============\n\nDriver Version : 550.54.15\nCUDA Version   : 12.4\n",
}
SOFTWARE = GpuSoftware(
    driver_cuda=(12, 4),
    torch="2.15.0",
    torch_cuda=(12, 8),
    torch_architectures=("sm_70", "sm_75", "sm_80", "sm_90"),
    onnxruntime_cuda=(12, 6),
    tensorrt_cuda={"tensorrt-cu12": 12},
)


def answer(command: Sequence[str]) -> CommandOutcome:
    return CommandOutcome(output=ANSWERS.get(command[1], ANSWERS["nvidia-smi"]))


def machine(run: object = answer) -> Machine:
    files = {CPUINFO: "model name : AMD EPYC 9B45\nflags : avx2\n"}
    return detect(run=run, read=files.get, environ={}, num_cores=2, architecture="x86_64")  # type: ignore[arg-type]


def problems(software: GpuSoftware, *states: GpuState) -> list[tuple[str, str, str]]:
    found = gpu_findings(machine(), GpuReport(states=states, software=software))
    return [(item.subject, item.problem, item.remedy) for item in found]


def test_states_and_processes_are_read() -> None:
    (state,), notes = read_states(answer)
    assert (state.compute_capability, state.mig, state.clock_mhz, state.max_clock_mhz) == ("7.0", False, 1290, 1530)
    assert state.processes == ("python3 (pid 4242, 11,264 MiB)", "[Not Found] (pid 99)")
    assert notes == ()
    (state,), _ = read_states(answer, is_own=lambda pid: pid == 4242)
    assert state.processes == ("[Not Found] (pid 99)",)


def test_a_driver_that_does_not_answer_is_noted() -> None:
    states, notes = read_states(lambda command: CommandOutcome(failure="nvidia-smi did not answer within 10 s"))
    assert states == ()
    assert notes[0] == "the state of the GPUs is not known: nvidia-smi did not answer within 10 s"


def test_versions_that_fit_are_no_problem() -> None:
    assert problems(SOFTWARE, GpuState(uuid=UUID)) == []


def test_a_driver_too_old_for_torch_is_named() -> None:
    ((subject, problem, remedy),) = problems(replace(SOFTWARE, torch_cuda=(13, 2), onnxruntime_cuda=None))
    assert subject == "torch"
    assert problem == "is built for CUDA 13.2, and the driver supports CUDA up to 12.4"
    assert remedy == "a newer driver, or the build of torch for CUDA 12"


def test_a_wheel_of_tensorrt_for_another_cuda_is_named() -> None:
    ((subject, problem, _),) = problems(replace(SOFTWARE, tensorrt_cuda={"tensorrt-cu13": 13}))
    assert (subject, "CUDA 13.0" in problem) == ("tensorrt-cu13", True)


def test_onnxruntime_and_torch_of_different_cuda_are_named() -> None:
    newer = replace(SOFTWARE, driver_cuda=(13, 0), onnxruntime_cuda=(13, 0))
    ((subject, problem, remedy),) = problems(newer)
    assert (subject, problem) == ("onnxruntime", "is built for CUDA 13.0, and torch for CUDA 12.8")
    assert remedy.startswith("the build of torch for CUDA 13")


def test_a_gpu_that_torch_was_not_built_for_is_named() -> None:
    architectures = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
    ((subject, problem, _),) = problems(replace(SOFTWARE, torch_architectures=architectures))
    assert subject == "torch"
    assert problem.startswith(
        "2.15.0 has no kernels for compute capability 7.0 of GPU 0, Tesla V100-SXM2-16GB, but for"
    )


@pytest.mark.parametrize(
    ("capability", "architectures", "unsupported"),
    [
        ("8.9", ("sm_80", "sm_86"), False),  # machine code runs on later minor versions
        ("8.0", ("sm_86",), True),
        ("12.0", ("sm_90", "sm_100"), True),
        ("12.0", ("sm_90", "compute_90"), False),  # portable code runs on all later versions
        ("9.0", ("sm_90a",), False),
        ("10.3", ("sm_100a",), True),
        ("10.3", ("sm_100f",), False),
        ("9.4", ("gfx942",), False),
        ("7.0", (), False),
    ],
)
def test_kernels_run_on_a_gpu(capability: str, architectures: tuple[str, ...], unsupported: bool) -> None:
    assert unsupported_capability(capability, architectures) is unsupported


def test_a_gpu_in_multi_instance_mode_without_a_slice_is_named() -> None:
    ((subject, problem, remedy),) = problems(SOFTWARE, GpuState(uuid=UUID, mig=True))
    assert (subject, "has no slice" in problem, "-cgi" in remedy) == ("gpu", True, True)


def test_other_processes_are_named() -> None:
    ((_, problem, remedy),) = problems(SOFTWARE, GpuState(uuid=UUID, processes=("train.py (pid 7)",)))
    assert (problem, remedy) == ("other processes are on GPU 0: train.py (pid 7)", "end them, or --gpus another")


def test_this_machine_is_asked_only_if_it_has_a_gpu() -> None:
    assert inspect_gpus(machine(lambda command: CommandOutcome(failure="no driver"))) == GpuReport()
    report = inspect_gpus(machine(), run=answer)
    assert report.software.driver_cuda == (12, 4)
    assert report.states[0].compute_capability == "7.0"
    reasons = {status.runtime: status.reason for status in report.runtimes}
    assert list(reasons) == ["tensorrt", "tensorrt-rtx", "torch-graph", "torch-compile", "torch", "onnxruntime"]
    assert installed_software((12, 4)).torch is not None


def test_cuda_of_the_installed_wheels_is_read_from_their_names() -> None:
    pytest.importorskip("tensorrt_rtx")
    found = installed_software(None).tensorrt_cuda
    assert found is not None
    assert set(found) >= {"tensorrt-rtx-cu13", "tensorrt-rtx-cu13-libs"}
    assert set(found.values()) == {13}


def report_with(gpus: GpuReport) -> DoctorReport:
    software = Environment(
        hwnas="1.0", python="3.11", system="Linux", release="6.1", machine="x86_64", packages=("onnxruntime-gpu==1.23",)
    )
    return doctor(machine=machine(), software=software, requires=("torch>=2.9",), gpus=gpus)


def test_the_page_of_the_doctor_has_the_gpu_and_its_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    states, _ = read_states(answer)
    rows = dict(printed._machine_rows(report_with(GpuReport(states=states, software=SOFTWARE))))
    assert rows["GPU 0"].startswith(
        "Tesla V100-SXM2-16GB (v100-16gb), 16.0 GiB, driver 550.54.15, compute capability 7.0"
    )
    assert rows["GPU 0"].endswith("1290 of 1530 MHz (no driver reports if they are locked)")
    assert rows["CUDA"] == "driver 12.4, torch 12.8, onnxruntime 12.6, tensorrt-cu12 12"


def test_the_remains_of_a_build_are_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert is_incomplete("half")
    assert not is_incomplete("json")
    monkeypatch.setattr(doctor_module, "is_incomplete", lambda package: True)
    (found,) = [item for item in report_with(GpuReport()).findings if item.subject == "onnxruntime"]
    assert found.problem == "is incomplete: uninstalling another build of it removed files"
