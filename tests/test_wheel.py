"""What an installed hwnas holds: its wheel is built, unpacked elsewhere, and asked."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow  # some ten seconds

ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import hwnas
from hwnas.data_paths import PROFILES, data_search_path
from hwnas.pipeline.predictors.workloads import known_workloads
from hwnas.predict.selector import choose_predictor
from hwnas.metrics import parse_metric

chosen = choose_predictor(parse_metric("throughput@rtx4090"), space=None)
(place,) = [path for path, origin in data_search_path(PROFILES) if origin == "shipped" and (path / "rtx4090").is_dir()]
workload = known_workloads(place).models["vit_small_patch16_224", 224]
answer = chosen.predictor.predict([workload], batch=chosen.metric.deployment.fixed_batch)
figures = [float(values[0]) for values in (answer.lower, answer.mean, answer.upper)]
print(json.dumps({"hwnas": hwnas.__file__, "path": str(chosen.path), "origin": chosen.origin, "figures": figures}))
"""


def build_command(out: Path) -> list[str]:
    """How the wheel can be built without the network: by hatchling itself, or by uv where it has kept hatchling."""
    if importlib.util.find_spec("hatchling"):
        return [sys.executable, "-c", f"import hatchling.build as build; build.build_wheel({str(out)!r})"]
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        pytest.skip("neither hatchling nor uv is here, so the wheel cannot be built")
    return [uv, "build", "--wheel", "--offline", "--out-dir", str(out), str(ROOT)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    made = subprocess.run(build_command(out), cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode and "hatchling" in made.stderr and ("offline" in made.stderr or "cache" in made.stderr):
        pytest.skip("uv has not kept hatchling, and to fetch it needs the network")
    assert made.returncode == 0, made.stderr
    (path,) = out.glob("hwnas-*.whl")
    return path


def test_profiles_and_predictors_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        packed = set(file.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "profiles", "predictors"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    there = tracked or [str(path.relative_to(ROOT)) for path in ROOT.glob("predictors/**/*.json")]
    assert any(name.startswith("predictors/rtx4090/") for name in there)
    assert {f"hwnas/{name}" for name in there} <= packed
    assert "hwnas/py.typed" in packed
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in packed)


def test_an_unpacked_wheel_finds_its_predictors_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    asked = subprocess.run(
        [sys.executable, "-I", "-c", ASK, str(installed)],
        cwd=elsewhere,
        env={name: value for name, value in os.environ.items() if not name.startswith("HWNAS_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)
    assert Path(found["hwnas"]).is_relative_to(installed)
    assert Path(found["path"]).is_relative_to(installed / "hwnas" / "predictors" / "rtx4090")
    assert found["origin"] == "shipped"
    lower, mean, upper = found["figures"]
    assert lower < mean < upper
    assert 5_000 < mean < 20_000
