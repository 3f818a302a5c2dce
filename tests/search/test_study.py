import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search.objective import Estimate, exact
from hwnas.search.study import Study
from hwnas.search.study_files import STUDY_FILE

CONFIG = {"space": "autoformer-micro", "seed": 0}
GENOMES = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.int16)
LATENCY = Estimate(np.array([0.1, 0.2, np.nan]), np.array([0.05, 0.1, np.nan]), np.array([0.15, 0.4, np.nan]))


def filled(path: Path) -> Study:
    study = Study.create(path, config=CONFIG)
    study.add(GENOMES[:1], generation=0, metrics={"macs": exact([5.0])}, sources={"macs": "analytic"})
    metrics = {"macs": exact([1 / 3, 7.0]), "latency_ms@cpu": LATENCY.rows(slice(1, 3))}
    study.add(GENOMES[1:], generation=1, metrics=metrics, sources={"macs": "analytic", "latency_ms@cpu": "predicted"})
    study.store_value(GENOMES[1:2], metric="accuracy", value=exact([0.1 + 0.2]), source="supernet", arch_id="abc")
    return study


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with Study.read(tmp_path) as study:
        table = study.table()
        assert study.config == CONFIG
        assert study.arch_ids() == {GENOMES[1].tobytes(): "abc"}
        assert study.source_of("accuracy") == ("supernet",)
        assert study.source_of("energy_j") == ()
        assert len(study) == 3
    assert (table.genomes == GENOMES).all()
    assert table.generations.tolist() == [0, 1, 1]
    assert table.metrics["macs"].mean.tolist() == [5.0, 1 / 3, 7.0]
    assert table.metrics["macs"].upper.tolist() == [5.0, 1 / 3, 7.0]
    np.testing.assert_array_equal(table.metrics["accuracy"].mean, [np.nan, 0.1 + 0.2, np.nan])
    np.testing.assert_array_equal(table.metrics["latency_ms@cpu"].mean, [np.nan, 0.2, np.nan])
    np.testing.assert_array_equal(table.metrics["latency_ms@cpu"].lower, [np.nan, 0.1, np.nan])


def test_measured_values_stand_beside_predicted_ones(tmp_path: Path) -> None:
    with filled(tmp_path) as study:
        study.store_value(GENOMES[1:2], metric="latency_ms@cpu", value=exact([0.3]), source="measured")
        assert study.table(["latency_ms@cpu"]).metrics["latency_ms@cpu"].mean[1] == 0.2
        table = study.table(["latency_ms@cpu"], sources=("measured", "predicted"))
        assert table.metrics["latency_ms@cpu"].mean[1] == 0.3
        assert study.source_of("latency_ms@cpu") == ("measured", "predicted")


def test_a_generation_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    with filled(tmp_path) as study:
        rows = np.array([[0, 0, 1], [1, 2, 3]], dtype=np.int16)
        with pytest.raises(InputError, match="UNIQUE constraint failed"):
            study.add(rows, generation=2, metrics={"params": exact([1.0, 2.0])}, sources={"params": "analytic"})
        assert len(study) == 3
        assert "params" not in study.metrics


def test_an_empty_study_has_an_empty_table(tmp_path: Path) -> None:
    with Study.create(tmp_path, config={}) as study:
        table = study.table()
    assert len(table.genomes) == 0
    assert table.metrics == {}


def test_plain_values_are_remembered(tmp_path: Path) -> None:
    with Study.create(tmp_path, config={}) as study:
        assert study.recall("elapsed_s") is None
        study.remember("elapsed_s", 0.1 + 0.2)
        study.remember("elapsed_s", 0.1 + 0.7)
        assert study.recall("elapsed_s") == 0.1 + 0.7


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with pytest.raises(InputError, match="holds a study of another configuration") as error:
        Study.resume(tmp_path, config={"space": "glit-micro", "seed": 0, "budget": 5})
    assert error.value.got == 'budget: stored null, given 5; space: stored "autoformer-micro", given "glit-micro"'
    Study.resume(tmp_path, config=CONFIG).close()


def test_there_is_one_writer(tmp_path: Path) -> None:
    with filled(tmp_path) as study:
        with pytest.raises(InputError, match="is being written by another search"):
            Study.resume(tmp_path, config=CONFIG)
        with Study.read(tmp_path) as reader:
            assert len(reader) == 3
        study.add(GENOMES[:1] + 1, generation=2, metrics={}, sources={})
    Study.resume(tmp_path, config=CONFIG).close()


def test_the_lock_of_a_process_that_died_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from hwnas.search.study import Study\n"
        "Study.create(Path(sys.argv[1]), config={'seed': 0}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    Study.resume(tmp_path, config={"seed": 0}).close()


def test_a_study_is_not_made_twice(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with pytest.raises(InputError, match="must not hold a study yet"):
        Study.create(tmp_path, config=CONFIG)


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        Study.read(tmp_path)
    (tmp_path / STUDY_FILE).write_text("no database, but long enough to be looked at as one")
    with pytest.raises(InputError, match="is not a study"):
        Study.resume(tmp_path, config=CONFIG)


def test_another_form_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with sqlite3.connect(tmp_path / STUDY_FILE) as connection:
        connection.execute("UPDATE meta SET value = 'hwnas.study/9' WHERE key = 'schema'")
    connection.close()
    with pytest.raises(InputError, match=r"must be a study of schema hwnas\.study/2") as error:
        Study.read(tmp_path)
    assert error.value.got == '"hwnas.study/9"'
