import json

import pytest

from hwnas.config import to_mapping
from hwnas.devices import Machine, detect
from hwnas.devices.cpu import CPUINFO
from hwnas.pipeline.doctor import DoctorReport, doctor
from hwnas.pipeline.gpu_check import Finding, GpuReport
from hwnas.runs import CommandOutcome, Environment, environment

REQUIRES = (
    "torch>=2.9",
    "numpy>=2.1",
    "scikit-learn>=1.7",
    'onnxruntime>=1.23; extra == "cpu"',
    'onnxruntime-gpu>=1.23; extra == "gpu"',
    'tensorrt>=10; extra == "tensorrt"',
)
COMPLETE = {
    "torch": "2.9.0",
    "timm": "1.0.20",
    "numpy": "2.4.6",
    "onnx": "1.19",
    "onnxscript": "0.6",
    "onnxruntime": "1.23.1",
    "openvino": "2026.4.1",
    "tensorrt": "10.3.0",
    "tensorrt-rtx": "1.7.1.116",
    "scikit-learn": "1.9.1",
    "xgboost": "3.2.0",
    "pymoo": "0.6.2",
    "moocore": "0.3.2",
    "pyarrow": "26.0.1",
    "safetensors": "0.8.0",
    "plotly": "7.1.0",
    "jinja2": "3.1.6",
    "matplotlib": "3.11.2",
    "nvidia-ml-py": "13.0",
}
GPU = CommandOutcome(output="NVIDIA H200, 143771 MiB, 570.1, GPU-1\n")
NO_GPU = CommandOutcome(failure="nvidia-smi is not installed")
ON_GPU = {name: version for name, version in COMPLETE.items() if name != "onnxruntime"} | {"onnxruntime-gpu": "1.23.1"}

REINSTALL = "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'hwnas[{}]'"


def machine(outcome: CommandOutcome) -> Machine:
    files = {CPUINFO: "model name : AMD EPYC 9B45\nflags : avx2\n"}
    return detect(run=lambda _: outcome, read=files.get, environ={}, num_cores=2, architecture="x86_64")


def software(packages: dict[str, str], *, problem: str | None = None) -> Environment:
    return Environment(
        hwnas="1.0",
        python="3.11.7",
        system="Linux",
        release="6.1",
        machine="x86_64",
        packages=tuple(f"{name}=={version}" for name, version in packages.items()),
        commit_problem=problem,
    )


def examined(packages: dict[str, str], *, outcome: CommandOutcome = GPU) -> DoctorReport:
    return doctor(machine=machine(outcome), software=software(packages), requires=REQUIRES, gpus=GpuReport())


def finding(report: DoctorReport, subject: str) -> Finding:
    (found,) = [item for item in report.findings if item.subject == subject]
    return found


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in ON_GPU.items() if key != name}


def test_a_complete_machine_has_no_findings() -> None:
    report = examined(ON_GPU)
    assert report.findings == ()
    assert report.default_device == "h200"
    assert all(package.accepted for package in report.packages)


def test_packages_say_what_is_installed_and_what_is_needed() -> None:
    by_name = {package.name: package for package in examined(ON_GPU).packages}
    torch, runtime, timm = by_name["torch"], by_name["onnxruntime"], by_name["timm"]
    assert (torch.installed, torch.required, torch.accepted) == ("2.9.0", ">=2.9", True)
    assert (runtime.distribution, runtime.installed) == ("onnxruntime-gpu", "1.23.1")
    assert (timm.required, timm.accepted) == (None, True)


@pytest.mark.parametrize(
    ("name", "cost", "remedy"),
    [
        ("tensorrt", "TensorRT engines cannot be built or timed", "pip install 'hwnas[tensorrt]'"),
        ("scikit-learn", "latency predictors cannot be fitted", "pip install 'scikit-learn>=1.7'"),
        ("matplotlib", "there are no PNG or SVG figures", "pip install 'matplotlib'"),
    ],
)
def test_a_missing_package_says_its_cost_and_remedy(name: str, cost: str, remedy: str) -> None:
    found = finding(examined(without(name)), name)
    assert (found.problem, found.cost, found.remedy) == ("is missing", cost, remedy)


def test_any_distribution_of_tensorrt_will_do() -> None:
    assert examined({**without("tensorrt"), "tensorrt-cu12": "10.3.0"}).findings == ()


@pytest.mark.parametrize("version", ["2.8.1", "2.9.0rc1", "2.9.0.dev20250101"])
def test_a_package_that_is_too_old_is_found(version: str) -> None:
    found = finding(examined({**ON_GPU, "torch": version}), "torch")
    assert found.problem == f"{version} does not meet >=2.9"
    assert found.remedy == "pip install 'torch>=2.9'"


@pytest.mark.parametrize("version", ["2.10.0", "2.9.1+cu130", "3.0.0a1"])
def test_a_package_that_is_new_enough_is_not(version: str) -> None:
    assert examined({**ON_GPU, "torch": version}).findings == ()


def test_a_machine_without_gpu_says_why() -> None:
    found = finding(examined(COMPLETE, outcome=NO_GPU), "gpu")
    assert found.problem == "no NVIDIA GPU can be used (nvidia-smi is not installed)"
    assert examined(COMPLETE, outcome=NO_GPU).default_device == "amd-epyc-9b45-2c-avx2"


def test_a_gpu_that_was_named_and_is_gone_is_a_finding() -> None:
    here = detect(
        run=lambda _: GPU,
        read={CPUINFO: "model name : AMD EPYC 9B45\nflags : avx2\n"}.get,
        environ={"CUDA_VISIBLE_DEVICES": "7"},
        num_cores=2,
        architecture="x86_64",
    )
    report = doctor(machine=here, software=software(COMPLETE), requires=(), gpus=GpuReport())
    assert report.default_device == ""
    assert "the GPU that CUDA_VISIBLE_DEVICES names must be in this machine" in finding(report, "gpu").problem


def test_packages_for_gpus_are_not_missed_without_one() -> None:
    packages = {name: version for name, version in COMPLETE.items() if name != "nvidia-ml-py"}
    assert [item.subject for item in examined(packages, outcome=NO_GPU).findings] == ["gpu"]
    assert "nvidia-ml-py" in [item.subject for item in examined(packages, outcome=GPU).findings]


def test_the_cpu_build_of_onnxruntime_beside_a_gpu_is_found() -> None:
    found = finding(examined(COMPLETE), "onnxruntime")
    assert found.problem == "is the CPU build, though a GPU is here"
    assert found.remedy == REINSTALL.format("gpu")


def test_two_builds_of_onnxruntime_are_found() -> None:
    found = finding(examined({**ON_GPU, "onnxruntime": "1.23.1"}), "onnxruntime")
    assert found.problem == "is installed twice, as onnxruntime and as onnxruntime-gpu"
    assert found.remedy == REINSTALL.format("gpu")
    twice = finding(examined({**ON_GPU, "onnxruntime": "1.23.1"}, outcome=NO_GPU), "onnxruntime")
    assert twice.remedy == REINSTALL.format("cpu")


@pytest.mark.parametrize(("outcome", "extra"), [(GPU, "gpu"), (NO_GPU, "cpu")])
def test_a_missing_onnxruntime_is_installed_by_the_extra_that_fits_the_machine(
    outcome: CommandOutcome, extra: str
) -> None:
    found = finding(examined(without("onnxruntime-gpu"), outcome=outcome), "onnxruntime")
    assert (found.problem, found.remedy) == ("is missing", f"pip install 'hwnas[{extra}]'")


def test_the_cpu_build_of_torch_is_found_only_beside_a_gpu() -> None:
    assert "CUDA build" in finding(examined({**ON_GPU, "torch": "2.9.0+cpu"}), "torch").remedy
    report = examined({**COMPLETE, "torch": "2.9.0+cpu"}, outcome=NO_GPU)
    assert [item.subject for item in report.findings] == ["gpu"]


def test_notes_on_a_machine_with_gpus_are_findings() -> None:
    odd = CommandOutcome(output=GPU.output + "Unable to determine the device handle\n")
    found = finding(examined(ON_GPU, outcome=odd), "machine")
    assert found.problem == "nvidia-smi answered 'Unable to determine the device handle'"


def test_requirements_that_cannot_be_checked_are_said() -> None:
    report = doctor(machine=machine(GPU), software=software(ON_GPU), requires=(), gpus=GpuReport())
    assert finding(report, "hwnas").cost == "packages that are too old go unnoticed"
    assert all(package.accepted for package in report.packages)


def test_a_commit_that_cannot_be_told_is_found() -> None:
    report = doctor(
        machine=machine(GPU),
        software=software(ON_GPU, problem="git is not installed"),
        requires=REQUIRES,
        gpus=GpuReport(),
    )
    assert finding(report, "git").problem == "git is not installed"


def test_this_machine_is_reported_and_is_plain_data() -> None:
    report = doctor()
    assert report.environment == environment()
    assert json.loads(json.dumps(to_mapping(report), allow_nan=False))["default_device"]
