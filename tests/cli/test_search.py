"""`hwnas search` and `hwnas query` as they are typed: what they print, and how they end."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hwnas.cli import search as command
from hwnas.cli.app import run
from hwnas.cli.front import short_names
from hwnas.cli.progress import ConsoleReporter
from hwnas.pipeline.search import verify
from hwnas.profile.environment import CampaignEnvironment
from hwnas.progress import ProgressEvent
from hwnas.runs import Run
from hwnas.search.record import read_record
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.pipeline.search.workbench import FIRST, write_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_bench(tmp_path_factory.mktemp("bench"), FIRST)


def words(bench: dict[str, Any], out: Path, *more: str) -> list[str]:
    """A search without accuracy, which takes no time."""
    base = [
        "search",
        "--space",
        FIRST,
        "--no-accuracy",
        "--objective",
        "throughput",
        "--budget",
        "40",
        "--export-top",
        "0",
    ]
    return [*base, "--predictors", str(bench["predictors"]), "--out", str(out), *more]


def test_a_search_prints_its_front_and_the_next_command(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(bench, tmp_path / "run", "--no-verify")) == 0
    out, err = capsys.readouterr()
    record = read_record(tmp_path / "run")
    assert out.splitlines()[0].split()[0] == "arch_id"
    assert all(arch_id in out for arch_id in record.front)
    assert "not verified: verification was turned off (--no-verify); every speed is predicted" in out
    assert out.rstrip().endswith(f"next: hwnas report {tmp_path / 'run'}")
    assert "40 of 40 evaluations, 0 s left, hypervolume" in err
    assert run(["query", str(tmp_path / "run"), "--constraint", "macs<=2M"]) == 0
    assert "on the front of" in capsys.readouterr().out
    assert run(["query", str(tmp_path / "run"), "--constraint", "macs<=2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("None of the 40 candidates meets macs<=2.\nclosest: ")
    assert out.count(", macs ") == 3
    assert run(["query", str(tmp_path / "run"), "--constraint", "throughput>=1000k"]) == 0
    assert "predicted" in capsys.readouterr().out.splitlines()[1]
    assert run(["query", str(tmp_path / "run"), "--constraint", "throughput>=1"]) == 0
    assert "checked on its prediction" in capsys.readouterr().out


def test_progress_after_a_search_is_that_of_the_measurements(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CampaignEnvironment, "of_this_machine", lambda **options: FakeEnvironment().make())
    assert run(words(bench, tmp_path / "run")) == 0
    err, front = capsys.readouterr().err, read_record(tmp_path / "run").front
    _, _, after = err.partition(f"measuring the {len(front)} networks of the front with onnxruntime in fp32 on {CPU}\n")
    total = len(front) + min(12, len(front))
    first, *_, last = [line for line in after.splitlines() if line.startswith("measuring") or " measured on" in line]
    assert first.startswith(f"measuring 1 of {total} on {CPU}, estimated ")
    assert last == f"{total} of {total} measured on {CPU}"


def test_json_is_the_record(bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words(bench, tmp_path / "run", "--no-verify", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(tmp_path / "run")
    assert document["front"] == list(read_record(tmp_path / "run").front)
    assert run(["query", str(tmp_path / "run"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {network["arch_id"] for network in answer["networks"]} == set(document["front"])


def test_a_bare_search_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWNAS_PREDICTORS", str(tmp_path))
    monkeypatch.setenv("HWNAS_PROFILES", str(tmp_path))
    assert run(["search", "--objective", "throughput"]) == 1
    err = capsys.readouterr().err
    assert "there is no trained supernet under runs" in err
    assert "hwnas init DIR, then hwnas train" in err
    assert "hwnas profile --space autoformer-tiny --device" in err
    assert run(["search", "--space", "resnas-micro"]) == 1
    err = capsys.readouterr().err
    assert "there is no trained supernet of resnas-micro under runs" in err
    assert "hwnas train --space resnas-micro --data DIR" in err
    assert list(tmp_path.iterdir()) == []
    Run.create(Path("runs/net"), command=("hwnas",), config={"recipe": {}, "space": "resnas-micro"})
    Path("runs/net/supernet.safetensors").touch()
    assert run(["search"]) == 1
    err = capsys.readouterr().err
    assert "there is no trained supernet of autoformer-tiny under runs" in err
    assert "try     hwnas search --supernet runs/net\n" in err


def test_a_dry_run_says_what_would_be_searched(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(bench, tmp_path / "run", "--dry-run", "--constraint", "macs<=3M")) == 0
    out = capsys.readouterr().out
    assert "macs<=3e+06" in out
    assert "constraints can be met" in out
    assert not (tmp_path / "run").exists()


def test_a_front_that_could_not_be_verified_shows_in_the_exit_code(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.errors import MissingError

    def gone(*args: Any, **options: Any) -> Any:
        raise MissingError("device 'h200' is not in this machine")

    monkeypatch.setattr(verify, "measure_plan", gone)
    assert run(words(bench, tmp_path / "run")) == 4
    out, err = capsys.readouterr()
    assert "verification failed: device 'h200' is not in this machine" in out
    assert f"try     hwnas search --resume {tmp_path / 'run'}" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "--objective", "thruput"], 1, "objective 'thruput' is not known"),
        (["search", "--constraint", "latency_ms<8"], 1, "must be METRIC<=BOUND"),
        (["search", "--resume", "x", "--seed", "1"], 2, "--resume takes its options from the run"),
        (["search", "--resume", "nowhere"], 1, "there is no run folder nowhere"),
        (["search", "--confidence", "2"], 2, "in the range 0<x<1"),
        (["search", "--budget", "0"], 2, "--budget"),
        (["search", "--repair", "--retrain", "1"], 2, "no network is exported with the weights of a supernet"),
        (["search", "--repair", "--no-accuracy"], 2, "--repair has no effect"),
        (["query", "nowhere"], 1, "there is no run folder nowhere"),
        (
            ["search", "--strategy", "ngsa2", "--supernet", "nowhere"],
            1,
            "try     hwnas search --strategy nsga2 --supernet nowhere",
        ),
    ],
)
def test_wrong_command_lines_are_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_the_command_of_a_run_has_the_options_of_the_project(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hwnas.toml").write_text('[search]\nobjective = ["throughput"]\nbudget = 40\nno-verify = true\n')
    given = ["--space", FIRST, "--no-accuracy", "--predictors", str(bench["predictors"]), "--export-top", "0"]
    arguments = ["search", *given, "--out", "run"]
    monkeypatch.setattr(sys, "argv", ["hwnas", *arguments])
    assert run(arguments) == 0
    added = ("--objective", "throughput", "--budget", "40", "--no-verify")
    assert Run.open(Path("run")).manifest.command == ("hwnas", *arguments, *added)
    Path("hwnas.toml").unlink()
    assert run([*arguments[:-1], "again", *added]) == 0
    assert read_record(Path("again")).front == read_record(Path("run")).front


def test_a_misspelled_query_is_answered_with_what_to_type(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(bench, tmp_path / "search", "--no-verify")) == 0
    capsys.readouterr()
    assert run(["query", str(tmp_path / "serch")]) == 1
    assert capsys.readouterr().err.endswith(f"  try     hwnas query {tmp_path / 'search'}\n")
    assert run(["query", str(tmp_path / "search"), "--constraint", "latency<=8"]) == 1
    hint = f"hwnas query {tmp_path / 'search'} --constraint 'latency_ms<=8'"
    assert capsys.readouterr().err.endswith(f"  try     {hint}\n")


def test_an_interrupted_search_says_how_to_go_on(
    bench: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(ConsoleReporter):
        def update(self, event: ProgressEvent) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "console_reporter", Impatient)
    assert run(words(bench, tmp_path / "run", "--no-verify")) == 130
    assert capsys.readouterr().err.endswith(
        f"interrupted: all that was evaluated is kept\n  try     hwnas search --resume {tmp_path / 'run'}\n"
    )
    monkeypatch.undo()
    assert run(["search", "--resume", str(tmp_path / "run")]) == 0
    assert run(words(bench, tmp_path / "other", "--no-verify")) == 0
    assert read_record(tmp_path / "run").front == read_record(tmp_path / "other").front


def test_columns_lose_the_setting_where_they_are_clear_without() -> None:
    where = "@some-cpu-4c/onnxruntime/fp32/b1"
    names = ["macs", f"throughput{where}", f"throughput{where}_measured", f"throughput{where}_vs_deit_ti"]
    assert short_names(names) == ["macs", "throughput", "throughput_measured", "throughput_vs_deit_ti"]
    two = ["latency_ms@h200/torch-graph/bf16/b1", f"latency_ms{where}"]
    assert short_names(two) == two
