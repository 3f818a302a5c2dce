"""Studies that are exported: what Optuna and readers of tables find in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from hwnas.errors import InputError, MissingError
from hwnas.pipeline.study_export import StudyFormat, export_study, gene_names
from hwnas.report.gather import gather
from hwnas.space import SPACES
from tests.report.example import LATENCY, Example, make_run

optuna = pytest.importorskip("optuna", reason="optuna is not installed here")

EXAMPLE = Example(space="autoformer-micro", count=40, constraints=(f"{LATENCY}<=2.03",), unknown_share=0.2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "search-a", EXAMPLE)


def load(file: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if file.suffix == ".db":
        return optuna.load_study(study_name=None, storage=f"sqlite:///{file}")
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(file))))


@pytest.mark.parametrize("name", ["a.log", pytest.param("a.db", marks=pytest.mark.slow)])
def test_optuna_reads_trials_with_genes_values_states_and_attributes(run: Path, tmp_path: Path, name: str) -> None:
    written = export_study(run, out=tmp_path / name)
    assert written.num_trials == 40
    assert str(written.file) in (written.url or "")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    study, data = load(written.file), gather(run)
    assert study.study_name == "search-a"
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    accuracy = data.candidates.metrics["accuracy"].mean
    space = data.space
    for row, trial in enumerate(study.trials):
        (arch,) = space.decode(data.candidates.genomes[row : row + 1])
        assert trial.user_attrs["arch_id"] == space.arch_id(arch)
        assert trial.params["embed_dim"] == arch.to_mapping()["embed_dim"]
        assert ("num_heads.3" in trial.params) is (trial.params["depth"] > 3)
        limit = data.candidates.metrics[LATENCY].mean[row]
        state = "PRUNED" if limit > 2.03 else "COMPLETE" if np.isfinite(accuracy[row]) else "FAIL"
        assert trial.state.name == state
        assert (trial.constraints[f"{LATENCY}<=2.03"] > 0) is bool(limit > 2.03)
        if state == "COMPLETE":
            assert trial.values[0] == accuracy[row]
            assert trial.values[2] == limit
    measured = [trial for trial in study.trials if f"{LATENCY} measured" in trial.user_attrs]
    assert len(measured) == sum(member.measured for member in data.front)
    best = {trial.number for trial in study.best_trials}
    assert best == {member.row for member in data.front}


@pytest.mark.parametrize("to", ["csv", "parquet", "pandas"])
def test_a_table_has_a_row_for_each_candidate(run: Path, tmp_path: Path, to: StudyFormat) -> None:
    written = export_study(run, to=to, out=tmp_path / "table")
    read = {"csv": pyarrow.csv.read_csv, "parquet": pyarrow.parquet.read_table, "pandas": pyarrow.feather.read_table}[
        to
    ]
    table = read(written.file).to_pydict()
    data = gather(run)
    assert written.url is None
    assert table["number"] == list(range(40))
    assert table["macs"] == data.candidates.metrics["macs"].mean.tolist()
    assert {"gene embed_dim", f"measured {LATENCY}", f"{LATENCY} lower", f"violation {LATENCY}<=2.03"} <= table.keys()
    assert {"complete", "infeasible", "failed"} == set(table["state"])
    assert [row for row, is_on in enumerate(table["on_front"]) if is_on] == sorted(
        member.row for member in data.front if member.stands
    )


def test_an_unfinished_search_has_trials_that_wait(tmp_path: Path) -> None:
    example = Example(space="autoformer-micro", count=20, finished=False, unknown_share=0.5)
    written = export_study(make_run(tmp_path / "search-b", example))
    states = {trial.state.name for trial in load(written.file).trials}
    assert states == {"COMPLETE", "WAITING"}
    assert written.file == tmp_path / "search-b" / "study.optuna.log"


def test_a_file_is_not_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(InputError, match="must be a new file"):
        export_study(run, to="csv", out=tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"


def test_without_optuna_the_extra_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingError) as caught:
        export_study(run, out=tmp_path / "a.log")
    assert "hwnas[optuna]" in (caught.value.hint or "")


@pytest.mark.parametrize("space", ["autoformer-micro", "resnas-tiny", "vitas-twins-small", "glit-tiny"])
def test_genes_have_names_of_their_own(space: str) -> None:
    dimensions = SPACES.get(space).dimensions
    assert len(set(gene_names(dimensions))) == len(dimensions)
