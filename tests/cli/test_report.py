import json
import webbrowser
from pathlib import Path

import pytest

from hwnas.cli.app import run as hwnas
from hwnas.report.live.server import LiveServer
from hwnas.runs import Run
from tests.report.example import Example, make_run

SMALL = Example(space="autoformer-micro", count=40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "search-a", SMALL)


def test_the_verdict_and_the_paths_are_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hwnas(["report", str(run)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("The search explored 40 networks of ")
    assert lines[2:6] == [str(run / name) for name in ("report.html", "front.csv", "front.json", "front.md")]
    assert lines[6].startswith(f"{run / 'figures'}: front.png, front.svg, ")
    assert lines[8].startswith("took ")
    assert lines[9].startswith(f"next: hwnas export {run} --arch ")
    assert "warning: Could not be measured: 1 of " in captured.err
    assert all((run / name).is_file() for name in ("report.html", "front.csv", "figures/front.svg"))


def test_json_is_one_document(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hwnas(["report", str(run), "--out", str(tmp_path / "new" / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["page", "tables", "figures", "runs", "warnings"]
    assert document["page"] == str(tmp_path / "new" / "out" / "report.html")
    assert document["runs"][0]["num_candidates"] == 40
    assert document["runs"][0]["finished"] is True


def test_several_runs_go_on_one_page(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_run(tmp_path / "search-b", SMALL)
    assert hwnas(["report", str(other), str(run)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("search-b: The search explored 40 networks of ")
    assert lines[1].startswith("search-a: The search explored 40 networks of ")
    assert lines[3] == str(other / "report.html")
    assert "warning: search-b: Could not be measured" in captured.err


def test_open_opens_the_page(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []

    def fail(address: str) -> bool:
        opened.append(address)
        return False

    monkeypatch.setattr(webbrowser, "open", fail)
    assert hwnas(["report", str(run), "--out", str(tmp_path), "--open"]) == 0
    assert opened == [(tmp_path / "report.html").as_uri()]
    assert "no browser could be opened" in capsys.readouterr().err


def test_what_is_no_search_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hwnas(["report", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: there is no run folder ")
    Run.create(tmp_path / "train-a", command=["hwnas", "train"], config={})
    assert hwnas(["report", str(tmp_path / "train-a")]) == 1
    err = capsys.readouterr().err
    assert "train-a must be the run of a search" in err
    assert "got     no file study.sqlite" in err


@pytest.mark.parametrize("command", ["report", "query", "export"])
def test_a_run_must_be_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hwnas([command]) == 2
    err = capsys.readouterr().err
    assert "must be given, or be out in [search] of hwnas.toml in this folder" in err
    assert f"  try     hwnas {command} runs/NAME" in err
    Path("hwnas.toml").write_text("[search]\nbudget = 8\n")
    assert hwnas([command]) == 2
    assert "no [search] out in hwnas.toml" in capsys.readouterr().err


def test_the_run_of_a_project_need_not_be_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hwnas.toml").write_text(f'[search]\nout = "{run}"\n')
    assert hwnas(["report", "--out", "page"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"hwnas.toml: {run}\n")
    assert captured.out.splitlines()[2] == "page/report.html"
    assert hwnas(["-q", "query"]) == 1  # the example has no predictors
    assert capsys.readouterr().err.startswith(f"error: {run}/predictors/")
    assert hwnas(["-q", "export"]) == 1
    assert f"error: the network of {run} must be named" in capsys.readouterr().err


def test_watch_prints_the_address_and_serves(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(LiveServer, "serve_forever", lambda server: asked.append(server.port))
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert hwnas(["report", str(run), "--watch", "--open"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"http://127.0.0.1:{asked[0]}/")
    assert "warning: whoever" not in captured.err
    assert hwnas(["report", str(run), "--watch", "--host", "0.0.0.0", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["url"].startswith("http://")
    assert "warning: anyone who can reach 0.0.0.0" in captured.err


@pytest.mark.parametrize("options", [["--watch", "--out", "x"], ["--host", "0.0.0.0"], ["--port", "80"]])
def test_options_without_effect_are_refused(run: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert hwnas(["report", str(run), *options]) == 2
    assert "has no effect" in capsys.readouterr().err
