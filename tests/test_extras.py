"""The extras of hwnas: which runtimes they bring, and that each installs into a fresh environment."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BUILDS = {"onnxruntime", "onnxruntime-gpu"}
"""Distributions that write the same files."""
RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt_rtx", "openvino", "pynvml")

IMPORTED = {
    "": set(),
    "cpu": {"onnxruntime"},
    "gpu": {"onnxruntime", "pynvml"},
    "openvino": {"openvino"},
    "tensorrt-rtx": {"tensorrt_rtx", "pynvml"},
    "gpu,tensorrt-rtx": {"onnxruntime", "tensorrt_rtx", "pynvml"},
}
"""Extras and the packages of `RUNTIMES` that each brings. TensorRT's libraries come from NVIDIA's own index, which is
not reached everywhere, so `tensorrt` is only resolved."""

CUDA_SESSION = """
import torch, onnxruntime
from onnx import TensorProto, helper
onnxruntime.preload_dlls()
image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y"))
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [image], [logits])
model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
"""
"""Prints to stderr which library the CUDA provider lacks."""

IMPORT = f"""
import importlib, hwnas
for name in {RUNTIMES}:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    print(name, *(module.get_available_providers() if name == "onnxruntime" else ()))
"""
_NO_NETWORK = ("dns error", "Failed to fetch", "error sending request", "Could not connect", "name resolution")


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_brings_two_builds_of_onnxruntime(extra: str) -> None:
    assert len(BUILDS & names([*PROJECT["dependencies"], *EXTRAS[extra]])) <= 1


def test_hwnas_itself_needs_no_runtime_but_torch() -> None:
    assert not names(PROJECT["dependencies"]) & {*BUILDS, "openvino", "tensorrt", "tensorrt-rtx", "nvidia-ml-py"}


def test_extras_that_messages_and_docs_name_exist() -> None:
    files = [*ROOT.glob("hwnas/**/*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    found = {name for file in files for name in re.findall(r"hwnas\[([a-z,-]+)\]", file.read_text(encoding="utf-8"))}
    assert {"cpu", "gpu"} <= found
    assert {part for name in found for part in name.split(",")} <= EXTRAS.keys()


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run uv, or skip the test if uv or the network is missing."""
    program = Path(sys.executable).with_name("uv")
    if not program.exists():
        pytest.skip("uv is not installed")
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and any(text in done.stderr for text in _NO_NETWORK):
        pytest.skip(f"no package index can be reached: {done.stderr.strip()[-200:]}")
    return done


@pytest.mark.slow
@pytest.mark.parametrize("extras", IMPORTED)
def test_an_extra_installs_into_a_fresh_environment(extras: str, tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    made = uv("venv", "--quiet", "--python", sys.executable, str(tmp_path / "env"))
    assert made.returncode == 0, made.stderr
    project = f"{ROOT}[{extras}]" if extras else str(ROOT)
    done = uv("pip", "install", "--quiet", "--python", str(python), project, "--constraints", "constraints.txt")
    assert done.returncode == 0, done.stderr
    command = [str(python), "-I", "-c", IMPORT]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    providers = {name: rest for name, *rest in map(str.split, printed.splitlines())}
    assert providers.keys() == IMPORTED[extras]
    if "onnxruntime" in providers:
        assert ("CUDAExecutionProvider" in providers["onnxruntime"]) is ("gpu" in extras)
    if "gpu" in extras:
        command = [str(python), "-I", "-c", CUDA_SESSION]
        complaint = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
        assert set(re.findall(r"(lib\w+\.so[.\d]*): cannot open", complaint)) <= {"libcuda.so.1"}, complaint
    doctor = subprocess.run([python.with_name("hwnas"), "doctor"], cwd=tmp_path, capture_output=True, text=True)
    assert doctor.returncode == 0, doctor.stderr
    assert "twice" not in doctor.stdout
    assert ("onnxruntime: is missing" in doctor.stdout) is ("onnxruntime" not in providers)


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["gpu,tensorrt", "gpu,tensorrt,tensorrt-rtx,openvino", "cpu,openvino,tensorrt-rtx"])
def test_extras_resolve_together(extra: str) -> None:
    extras = [word for name in extra.split(",") for word in ("--extra", name)]
    done = uv("pip", "compile", "--quiet", "--no-header", "pyproject.toml", *extras, "--constraints", "constraints.txt")
    assert done.returncode == 0, done.stderr
    found = names([line.split("#")[0].strip() for line in done.stdout.splitlines() if re.match(r"[a-z0-9]", line)])
    assert len(BUILDS & found) == 1
    assert set(extra.split(",")) - {"gpu", "cpu"} <= found
