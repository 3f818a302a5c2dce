"""An engine of TensorRT for RTX by the command line, for a GPU that is not there."""

import json
import shlex
from pathlib import Path

import pytest

from tests.cli.commands import CommandLine, command_line

__all__ = ["command_line"]

pytest.importorskip("tensorrt_rtx")

COMMAND = "export autoformer-tiny AutoFormer-T --format tensorrt-rtx --precision fp16 --for rtx4090 --out"


def test_an_engine_of_a_published_network_is_built_for_another_gpu(command_line: CommandLine, tmp_path: Path) -> None:
    assert command_line(*shlex.split(COMMAND), str(tmp_path)) == 0, command_line.err
    printed = [Path(line) for line in command_line.out.splitlines() if line.startswith(str(tmp_path))]
    assert printed
    assert all(path.exists() for path in printed)
    (card,) = (path for path in tmp_path.iterdir() if path.name.endswith((".rtx.json", ".engine.json")))
    settings = json.loads(card.read_text())["settings"]
    assert (settings["precision"], settings["compute_capabilities"]) == ("fp16", ["8.9"])
