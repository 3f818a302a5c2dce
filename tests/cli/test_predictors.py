import json
import re
from pathlib import Path

import pytest

from hwnas.runs import Run
from tests.cli.commands import CommandLine, command_line
from tests.pipeline.measured_profiles import DEVICE, fast_fits, make_profile

__all__ = ["command_line"]

SPACE = "autoformer-micro"
FOLDER = f"predictors/{DEVICE}/{SPACE}-onnxruntime-fp32-b1-t1"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    fast_fits(monkeypatch)
    make_profile(Path("profiles"))


def test_fit_prints_how_good_each_predictor_is(command_line: CommandLine) -> None:
    assert command_line("fit", "--device", DEVICE) == 0
    fitted_to, head, *rows, folder, empty, took, following = command_line.out.splitlines()
    assert FOLDER.endswith(fitted_to)
    assert re.split(r" {2,}", head)[:4] == ["metric", "model", "networks", "MAPE"]
    assert [row.split()[0] for row in rows] == ["latency_ms", "throughput", "memory_mb"]
    assert max(map(len, (head, *rows))) <= 100
    assert (folder, empty) == (f"written to {FOLDER}", "")
    assert re.fullmatch(r"took \d+(\.\d)? s", took)
    assert following == f"next: hwnas search --space {SPACE} --device {DEVICE} --objective throughput --no-accuracy"
    assert "fitting latency_ms to 42 rows" in command_line.err


def test_the_search_that_follows_a_fit_has_the_newest_supernet_of_the_spaces(command_line: CommandLine) -> None:
    make_profile(Path("profiles"), "resnas-micro")
    for name, space, day in (("a", SPACE, 1), ("b", "resnas-micro", 3), ("c", SPACE, 2)):
        run = Run.create(Path("runs") / name, command=(), config={"recipe": {}, "space": space}).path
        values = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps({**values, "created_utc": f"2026-01-0{day}T00:00:00+00:00"}))
        (run / "supernet.safetensors").touch()
    arguments = ("fit", "--device", DEVICE, "--metric", "latency_ms")
    assert command_line(*arguments) == 0
    search = f"next: hwnas search --supernet runs/{{}} --device {DEVICE}"
    assert command_line.out.splitlines()[-1] == f"{search.format('b')} --objective latency_ms"
    assert command_line(*arguments, "--space", SPACE, "--precision", "fp32") == 0
    assert command_line.out.splitlines()[-1] == f"{search.format('c')} --precision fp32 --objective latency_ms"


def test_fit_as_json_is_one_document(command_line: CommandLine) -> None:
    assert command_line("fit", "--device", DEVICE, "--metric", "latency_ms", "--json") == 0
    (fitted,) = json.loads(command_line.out)["fitted"]
    assert fitted["metric"] == f"latency_ms@{DEVICE}/onnxruntime/fp32/b1/t1"
    assert (fitted["num_rows"], fitted["num_networks"], fitted["path"]) == (42, 30, f"{FOLDER}/latency_ms")
    assert fitted["scores"]["mape"] < 0.05


def test_predict_answers_with_an_interval_and_says_who_answered(command_line: CommandLine) -> None:
    command_line("fit", "--device", DEVICE, "--metric", "latency_ms")
    assert command_line("predict", f"{SPACE}:random:1", "--device", DEVICE) == 0
    head, row, empty, note, facts, card, _, took, following = command_line.out.splitlines()
    assert "90% interval" in head
    assert re.search(r"[\d.]+ ms +[\d.]+ to [\d.]+", row)
    assert empty == ""
    assert note.startswith(f"latency_ms@{DEVICE}/onnxruntime/fp32/b1, fitted to 30 networks of {SPACE} (")
    assert facts == f"  measured in {DEVICE}/{SPACE}-onnxruntime-fp32-b1-t1 with torch 2.15.0"
    assert card.endswith(f"{FOLDER}/latency_ms/card.md")
    assert took.startswith("took ")
    assert following == f"next: hwnas search --space {SPACE} --device {DEVICE} --objective latency_ms --no-accuracy"


def test_a_network_outside_ends_with_1(command_line: CommandLine) -> None:
    command_line("fit", "--device", DEVICE, "--metric", "latency_ms")
    Path("some.jsonl").write_text(f'"{SPACE}:random:1"\n"{SPACE}:max"\n')
    changed = {"space": SPACE, "arch": "random:2"}
    Path("good.jsonl").write_text(json.dumps(changed) + "\n")
    assert command_line("predict", "good.jsonl", "--device", DEVICE) == 0
    assert command_line("predict", "some.jsonl", "--device", DEVICE, "--json") in (0, 1)
    figures = json.loads(command_line.out)["predictions"]
    assert len(figures) == 2
    assert command_line("predict", "some.jsonl", "--device", DEVICE, "--allow-outside") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("fit", "--device", "h200"), 1, "error: there is no profile of h200"),
        (("fit", "--device", DEVICE, "--metric", "speed"), 1, "error: metric 'speed' is not known"),
        (("fit", "--device", DEVICE, "--samples", "0"), 2, "error: invalid value for '--samples'"),
        (
            ("predict", "autoformer-tiny:min", "--device", "h200", "--metric", "memory_mb"),
            3,
            "error: there is no predictor for h200",
        ),
        (("predict", "--device", "h200"), 1, "error: there must be a network to predict"),
        (("predict", "min", "--device", "h200"), 1, "error: a network must be named with its space"),
        (("predict", "timm:x", "--confidence", "1.5"), 2, "error: invalid value for '--confidence'"),
        (("profiles", "import-timm", "none.csv"), 1, "error: there is no file none.csv"),
        (("profile", "--until", "good"), 2, "error: --until must be an error of the predictor"),
        (("profile", "--order", "active"), 2, "error: --order needs --until"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    command_line: CommandLine, arguments: tuple[str, ...], code: int, message: str
) -> None:
    assert command_line(*arguments) == code
    assert command_line.err.startswith(message)
    assert "Traceback" not in command_line.err
