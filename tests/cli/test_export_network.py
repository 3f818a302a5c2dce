import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.pipeline.export_network import ExportedNetwork, export_network
from hwnas.search.record import Repair
from hwnas.search.result import load_search
from tests.cli.commands import CommandLine, command_line
from tests.report.example import Example, make_run

__all__ = ["command_line"]

ARGUMENTS = ("export", "autoformer-micro", "min", "--format", "safetensors")


def test_files_and_their_check_are_printed(command_line: CommandLine, tmp_path: Path) -> None:
    assert command_line(*ARGUMENTS, "--out", str(tmp_path)) == 0
    assert re.search(r"^weights +fresh, random, of seed 0$", command_line.out, re.MULTILINE)
    assert re.search(r"^top-1 agreement +100%$", command_line.out, re.MULTILINE)
    last = command_line.out.split("\n\n")[-1].splitlines()
    assert all(Path(line).exists() for line in last)
    assert last[0].endswith(".safetensors")
    assert last[1].endswith(".safetensors.parity.json")


def test_without_a_folder_files_are_written_to_exported(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line(*ARGUMENTS) == 0
    files = [Path(line) for line in command_line.out.split("\n\n")[-1].splitlines()]
    assert {file.parent for file in files} == {Path("exported")}
    assert all(file.exists() for file in files)


def test_json_is_one_document(command_line: CommandLine, tmp_path: Path) -> None:
    named = ("export", "autoformer-micro", "--arch", "min", "--format", "safetensors", "--batch", "any")
    assert command_line(*named, "--out", str(tmp_path), "--json") == 0
    document = json.loads(command_line.out)
    assert (document["format"], document["batch"], document["fresh_weights"]) == ("safetensors", None, True)
    assert document["parity"]["batches"] == [1, 3]
    assert command_line(*named[:-1], "dynamic", "--out", str(tmp_path), "--json") == 0
    assert json.loads(command_line.out)["batch"] is None
    assert document["parity"]["max_relative"] == 0.0


def test_a_run_without_a_network_lists_its_front_before_torch_is_imported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Example(space="autoformer-micro", count=40))
    code = f"import sys; from hwnas.cli.app import run; code = run(['export', {str(run)!r}, '--json'])"
    code += "; assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["hint"] == f"hwnas export {run} --pick balanced --out exported, or --arch ID"
    front = load_search(run).front
    assert [text.split()[0] for text in error["known"]] == [network.id for network in front]
    assert re.fullmatch(r"\w{16} \(accuracy [\d.]+%, macs [\d.]+ [kM], latency_ms [\d.,]+\)", error["known"][0])


def test_a_plan_is_exported_as_it_says(command_line: CommandLine, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.jsonl", ("--out", str(tmp_path / "out"), "--format", "safetensors")
    planned = ("--space", "vitas-micro", "--device", "l4", "--samples", "1", "--runtime", "tensorrt-rtx")
    assert command_line("profile", *planned, "--plan-only", "--out", str(plan)) == 0
    assert command_line("export", str(plan), *out) == 0
    *files, note = command_line.out.strip().splitlines()
    assert all(Path(file).exists() for file in files)
    assert note.startswith("left out, as they are not of the space: timm:deit_small")
    assert command_line("export", str(plan), *out, "--batch", "8") == 2
    assert "a plan already says which networks, and how" in command_line.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*ARGUMENTS, "--out", "x", "--arch", "max"), 2, "the network must be named once"),
        ((*ARGUMENTS, "--out", "x", "--batch", "0"), 2, "in the range 1<=x<=65536"),
        ((*ARGUMENTS, "--out", "x", "--format", "onyx"), 2, "'onyx' is not one of 'onnx'"),
        ((*ARGUMENTS, "--out", "x", "--max-drop", "2"), 2, "calibration and a loss of accuracy are for int8"),
        (("export", "autoformer-micro", "min", "--precision", "int8", "--out", "x"), 2, "int8 needs labelled images"),
        ((*ARGUMENTS, "--out", "x", "--precision", "int8", "--max-drop", "-1"), 2, "in the range 0<=x<=100"),
        (
            (*ARGUMENTS, "--out", "x", "--repair"),
            1,
            "only networks that are cut from a pretrained model can be repaired",
        ),
        (("push", "nowhere", "me/net"), 1, "nowhere"),
        (("push", "x", "me/net", "--arch", "a", "--pick", "fast"), 2, "the network must be named once"),
        ((*ARGUMENTS, "--out", "x", "--workspace-mb", "64"), 2, "TensorRT's build options"),
        ((*ARGUMENTS, "--out", "x", "--timing-cache-use", "pinned"), 2, "a use of a timing cache needs its file"),
        ((*ARGUMENTS, "--out", "x", "--weights", "none.safetensors"), 1, "there is no file none.safetensors"),
    ],
)
def test_what_cannot_work_is_said(
    command_line: CommandLine, arguments: tuple[str, ...], code: int, message: str
) -> None:
    assert command_line(*arguments) == code
    assert message in command_line.err


def test_a_repair_prints_what_it_changed(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect = Repair(
        data="digits",
        images=256,
        heldout_images=719,
        kept=True,
        model_accuracy=0.8,
        accuracy_before=0.5,
        accuracy=0.625,
        agreement_before=0.55,
        agreement=0.7,
        divergence_before=0.25,
        divergence=0.125,
    )
    for found, lines in (
        (None, [r"repair +nothing to repair: the network has all heads and hidden units"]),
        (
            effect,
            [
                r"repair +least squares on 256 training images of digits",
                r"accuracy +50\.00% before, 62\.50% after; the model 80\.00%",
                r"agreement +with the model's first class 55\.00% before, 70\.00% after",
                r"divergence +from the model 0\.25 before, 0\.125 after",
                r"measured on +719 held-out images",
            ],
        ),
        (replace(effect, kept=False), [r"repair +least squares on .*; worse than before, and not kept"]),
    ):

        def write(*arguments: Any, repair: bool, found: Repair | None = found, **options: Any) -> ExportedNetwork:
            assert repair
            return replace(export_network(*arguments, **options), repair=found)

        monkeypatch.setattr("hwnas.cli.export_network.write_network", write)
        assert command_line(*ARGUMENTS, "--repair", "--out", str(tmp_path)) == 0
        for line in lines:
            assert re.search(f"^{line}$", command_line.out, re.MULTILINE), command_line.out


def test_int8_prints_accuracy_next_to_that_of_float32(command_line: CommandLine, tmp_path: Path) -> None:
    arguments = ("export", "autoformer-micro", "min", "--precision", "int8", "--data", "digits", "--batch", "8")
    assert command_line(*arguments, "--calibration-images", "32", "--max-drop", "100", "--out", str(tmp_path)) == 0
    assert re.search(
        r"^top-1 accuracy +\d+\.\d\d%, fp32 \d+\.\d\d% \(.* points lost, 100 allowed\)$", command_line.out, re.MULTILINE
    )
    assert re.search(r"^calibration +32 images of digits, seed 0, minmax$", command_line.out, re.MULTILINE)
    assert re.search(r"^noisy layer +blocks\.\d\..*: signal to noise \d+ dB$", command_line.out, re.MULTILINE)


def test_int8_that_loses_too_much_ends_with_4(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.export.accuracy.QuantisedAccuracy.drop", 0.05)
    arguments = ("export", "autoformer-micro", "min", "--precision", "int8-dynamic", "--data", "digits", "--batch", "8")
    assert command_line(*arguments, "--out", str(tmp_path)) == 4
    assert "top-1 accuracy in int8-dynamic may be at most 1 points below that of fp32" in command_line.err
    assert not list(tmp_path.glob("*.onnx"))
