"""The layers in pyproject.toml are checked by `make check`; here is the proof that the check notices."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = Path(sys.executable).with_name("lint-imports")
HEAVY = {
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "plotly",
    "pymoo",
    "sklearn",
    "tensorrt",
    "timm",
    "torch",
}
HEAVY |= {"pyarrow", "scipy", "torchvision", "xgboost"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "hwnas", tmp_path / "hwnas", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> tuple[int, str]:
    """The exit code of import-linter on a tree, and what it printed with its spaces made single."""
    done = subprocess.run([LINT, "--no-cache"], cwd=tree, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def test_the_tree_as_it_is_passes(tree: Path) -> None:
    code, output = lint(tree)
    assert code == 0, output
    assert re.search(r"Contracts: \d+ kept, 0 broken", output)


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("errors.py", "import hwnas.config", "hwnas.errors -> hwnas.config"),
        ("config.py", "from hwnas import registry", "hwnas.config -> hwnas.registry"),
        ("space/__init__.py", "import hwnas.pipeline", "hwnas.space -> hwnas.pipeline"),
        ("space/__init__.py", "import torch", "hwnas.space -> torch"),
        ("space/__init__.py", "def late():\n    import timm.models", "hwnas.space -> timm"),
        ("workload.py", "from onnxruntime import InferenceSession", "hwnas.workload -> onnxruntime"),
        ("space/__init__.py", "from hwnas import describe", "hwnas.space -> hwnas"),
        ("space/arch.py", "from hwnas.space import space", "No cycles are allowed in hwnas.space"),
    ],
)
def test_a_forbidden_import_is_named(tree: Path, module: str, line: str, found: str) -> None:
    append(tree / "hwnas" / module, line)
    code, output = lint(tree)
    assert code == 1
    assert found in output
    assert re.search(r"Contracts: \d+ kept, [1-9]\d* broken", output)


def test_an_upward_import_through_another_module_is_named(tree: Path) -> None:
    (tree / "hwnas/space/detour.py").write_text("import torch\n")
    append(tree / "hwnas/space/__init__.py", "from hwnas.space import detour")
    code, output = lint(tree)
    assert code == 1
    assert "hwnas.space.detour -> torch" in output


def test_a_module_without_a_place_is_named(tree: Path) -> None:
    (tree / "hwnas/utils.py").write_text('"""Anything."""\n')
    code, output = lint(tree)
    assert code == 1
    assert "utils" in output


def loaded(*command: str) -> set[str]:
    """The top-level packages that a Python command imports."""
    importing = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(importing, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(re.findall(r"^import time:.*\| +(\w+)", done.stderr, flags=re.MULTILINE))


@pytest.mark.parametrize("module", ["hwnas", "hwnas.cli"])
def test_an_import_loads_nothing_heavy(module: str) -> None:
    packages = loaded("-c", f"import {module}")
    assert "hwnas" in packages
    assert not packages & HEAVY


def test_help_loads_nothing_heavy() -> None:
    packages = loaded(str(Path(sys.executable).with_name("hwnas")), "--help")
    assert "hwnas" in packages
    assert not packages & HEAVY


def test_a_heavy_import_would_be_seen() -> None:
    assert "pyarrow" in loaded("-c", "import pyarrow")
