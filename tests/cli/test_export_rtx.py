"""An engine of TensorRT for RTX by the command line, for a GPU that is not there."""

import json
import shlex
from pathlib import Path

import pytest

from tests.cli.commands import CommandLine, command_line

__all__ = ["command_line"]

pytest.importorskip("tensorrt_rtx")

COMMAND = "export autoformer-tiny AutoFormer-T --format tensorrt-rtx --precision fp16 --for rtx4090 --out"


@pytest.mark.slow
def test_an_engine_of_a_published_network_is_built_for_another_gpu(command_line: CommandLine, tmp_path: Path) -> None:
    assert command_line(*shlex.split(COMMAND), str(tmp_path)) == 0, command_line.err
    printed = [Path(line) for line in command_line.out.splitlines() if line.startswith(str(tmp_path))]
    assert printed
    assert all(path.exists() for path in printed)
    (card,) = (path for path in tmp_path.iterdir() if path.name.endswith((".rtx.json", ".engine.json")))
    settings = json.loads(card.read_text())["settings"]
    assert (settings["precision"], settings["compute_capabilities"]) == ("fp16", ["8.9"])


FP8 = "export autoformer-micro min --format tensorrt-rtx --precision fp8 --data digits --calibration-images 8"


def test_an_engine_in_fp8_is_built_with_its_accuracy(command_line: CommandLine, tmp_path: Path) -> None:
    assert command_line(*shlex.split(f"{FP8} --max-drop 100 --for rtx4090 --out"), str(tmp_path)) == 0, command_line.err
    (record,) = tmp_path.glob("*.rtx.parity.json")
    parity = json.loads(record.read_text())
    assert parity["precision"] == "fp8"
    assert parity["runtime"] == "onnxruntime; the engine was not run"
    assert parity["accuracy"]["calibration"]["num_images"] == 8
    assert parity["top1_agreement"] > 0.9


def test_fp8_is_refused_for_a_gpu_without_it(command_line: CommandLine, tmp_path: Path) -> None:
    assert command_line(*shlex.split(f"{FP8} --for rtx3090 --out"), str(tmp_path)) == 1
    assert "fp8 needs a GPU of compute capability 8.9 or later" in command_line.err
    assert "8.6" in command_line.err
    assert list(tmp_path.iterdir()) == []
