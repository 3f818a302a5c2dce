"""The tutorial is followed from its first command to its last, with fewer images, epochs and networks."""

import shlex
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from PIL import Image

from hwnas.train.data.images import ArrayDataset
from hwnas.train.data.loader import EvalLoader
from hwnas.train.data.preprocess import Preprocess
from tests.docs.pages import blocks, commands, page, run_commands, run_python, write_files

TEXT = page("tutorial.md")
SMALLER = {
    "--epochs 30": "--epochs 2",
    "--epochs 20": "--epochs 1",
    "--samples 24": "--samples 20 --repeats 0 --pairs 8 --no-reference-networks",
    "--budget 60": "--budget 12 --pairs 8",
}
"""What the test asks for in place of what the page does."""

VERBS = [
    "doctor",
    "spaces",
    "describe",
    "train",
    "evaluate",
    "profile",
    "fit",
    "predict",
    "search",
    "report",
    "train",
    "evaluate",
    "export",
]


def smaller(line: str) -> str:
    for asked, less in SMALLER.items():
        line = line.replace(asked, less)
    return line


def expanded(line: str, folder: Path) -> list[str]:
    """The words of a command; those with a star are what a shell makes of them."""
    words = []
    for word in shlex.split(line):
        words += sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]
    return words


def test_the_tutorial_has_every_step() -> None:
    assert [line.split()[1] for line in commands(TEXT)] == VERBS


def test_every_size_that_is_made_smaller_is_in_the_tutorial() -> None:
    assert [size for size in SMALLER if size not in TEXT] == []


def test_no_output_is_left_out() -> None:
    assert [block for block in blocks(TEXT, "text") if "@" in block] == []


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (20, 20), (91, 64), (50, 33), (47, 133), (500, 375)])
def test_images_are_preprocessed_as_in_evaluation(tmp_path: Path, size: tuple[int, int]) -> None:
    write_files(TEXT, tmp_path)
    preprocess = run_path(str(tmp_path / "classify.py"))["preprocess"]
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    (batch,) = EvalLoader(ArrayDataset(pixels[None], np.array([0]), ["a"]), image_shape=(3, 32, 32), batch_size=1)
    how = Preprocess.of(input_size=(3, 32, 32), num_classes=3).to_timm()
    np.testing.assert_allclose(preprocess(Image.fromarray(pixels), how), batch.images[0].numpy(), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_tutorial_ends_with_a_network_that_runs(tmp_path: Path) -> None:
    write_files(TEXT, tmp_path)
    run_python("make_images.py", "60", "6", folder=tmp_path)
    assert len(list((tmp_path / "shapes").rglob("*.png"))) == 3 * 66
    environ = {
        "HWNAS_PROFILES": "profiles",  # what ships with hwnas may be of this device, too
        "HWNAS_PREDICTORS": "predictors",
    }
    lines = [smaller(line) for line in commands(TEXT)]
    before = next(index for index, line in enumerate(lines) if "*" in line)
    done = run_commands(lines[:before], folder=tmp_path, environ=environ)
    assert "runs/search" in done[-1].out
    assert (tmp_path / "runs/search/report.html").is_file()
    rest = [shlex.join(expanded(line, tmp_path)) for line in lines[before:]]
    trained, judged, exported = run_commands(rest, folder=tmp_path, environ=environ)
    assert trained.out.startswith("runs/chosen/network.safetensors")
    assert "18 test images" in judged.out
    assert "top-1 agreement      100%" in exported.out
    words = expanded(blocks(TEXT, "sh")[-1].removeprefix("python ").strip(), tmp_path)
    answers = run_python(*words, folder=tmp_path).splitlines()
    assert [answer.split()[0] for answer in answers] == words[2:]
    assert {answer.split()[1] for answer in answers} <= {"circle", "square", "triangle"}
