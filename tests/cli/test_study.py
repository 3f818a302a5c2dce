import json
from pathlib import Path

import pytest

from hwnas.cli.app import run as hwnas
from tests.report.example import Example, make_run

SMALL = Example(space="autoformer-micro", count=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "search-a", SMALL)


def test_a_table_is_written_and_its_rows_are_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study.csv"
    assert hwnas(["study", "export", str(run), "--to", "csv", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 20 candidates\n"
    assert hwnas(["study", "export", str(run), "--to", "csv", "--out", str(out)]) == 1
    assert "must be a new file" in capsys.readouterr().err


def test_the_next_command_opens_a_storage_of_optuna(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    out = tmp_path / "study.log"
    assert hwnas(["study", "export", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: optuna-dashboard {out}"


def test_groups_are_printed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hwnas(["study", "compare", str(run), "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["group", "searches", "evaluations", "hypervolume", "smallest", "largest"]
    assert lines[1].split()[:3] == ["rounds", "1", "20"]
    assert str(tmp_path / "fronts.png") in lines
    assert hwnas(["study", "compare", str(run), "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["num_searches"] == 1
