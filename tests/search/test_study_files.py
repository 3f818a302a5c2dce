"""Studies that are damaged, come from elsewhere, are locked, or lie where nothing can be written."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search import study_files
from hwnas.search.genome_set import GenomeSet
from hwnas.search.objective import Estimate, exact
from hwnas.search.study import Source, Study
from hwnas.search.study_files import STUDY_FILE
from hwnas.space import SPACES

SPACE = SPACES.get("autoformer-micro")
CONFIG = {"space": SPACE.name}
LATENCY = Estimate(np.full(10, 2.0), np.full(10, 1.0), np.full(10, 3.0))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    genomes = np.unique(SPACE.sample(np.random.default_rng(0), 40), axis=0)[:20]
    with Study.create(folder, config=CONFIG) as study:
        for generation in range(2):
            metrics = {"macs": exact(np.arange(10.0)), "latency_ms@cpu": LATENCY}
            rows = genomes[10 * generation : 10 * generation + 10]
            sources: dict[str, Source] = {"macs": "analytic", "latency_ms@cpu": "predicted"}
            study.add(rows, generation=generation, metrics=metrics, sources=sources)
        study.store_value(genomes[:1], metric="accuracy", value=exact([0.5]), source="supernet", arch_id="abc")
        study.remember("elapsed_s", 1.5)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copy(sound / STUDY_FILE, tmp_path)
    return tmp_path


def read_all(folder: Path) -> None:
    with Study.read(folder) as study:
        assert isinstance(study.config, dict)
        study.recall_seconds("elapsed_s")
        study.recall("bounds")
        study.table(space=SPACE)
        study.table(sources=("measured",))
        study.arch_ids()
        for name in study.parsed_metrics():
            study.source_of(name)


def edit(folder: Path, script: str) -> None:
    with closing(sqlite3.connect(folder / STUDY_FILE)) as connection, connection:
        connection.executescript(script)


def test_a_closed_study_is_one_file(sound: Path) -> None:
    assert {item.name for item in sound.iterdir()} == {STUDY_FILE, study_files.STUDY_LOCK}
    read_all(sound)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("DROP TABLE candidates", "no table candidates"),
        ("DROP TABLE meta", "no table meta"),
        ("DROP TABLE evaluations; DROP TABLE metrics; DROP TABLE candidates; DROP TABLE meta", "no table meta"),
        ("ALTER TABLE candidates RENAME COLUMN genome TO gene", "table candidates must have the columns"),
        ("ALTER TABLE meta RENAME COLUMN value TO text", "table meta must have the columns"),
        ("ALTER TABLE evaluations ADD COLUMN more", "table evaluations must have the columns"),
        ("CREATE TABLE mine (x)", "tables of a study only"),
        ("CREATE VIEW mine AS SELECT * FROM meta", "tables of a study only"),
        ("CREATE TRIGGER mine AFTER INSERT ON meta BEGIN DELETE FROM candidates; END", "tables of a study only"),
        ("DROP TABLE metrics; CREATE VIEW metrics AS SELECT 1 AS id, 'macs' AS name", "table metrics must have"),
        ("DELETE FROM meta WHERE key = 'schema'", "schema hwnas.study/2"),
        ("UPDATE meta SET value = x'00ff' WHERE key = 'schema'", "schema hwnas.study/2"),
        ("DELETE FROM meta WHERE key = 'config'", "meta.config must be a table"),
        ("UPDATE meta SET value = '[1]' WHERE key = 'config'", "meta.config must be a table"),
        ("UPDATE meta SET value = 'null' WHERE key = 'config'", "meta.config must be a table"),
        ("UPDATE meta SET value = '{\"a\":' WHERE key = 'config'", "meta.config is not JSON"),
        ("UPDATE meta SET value = '' WHERE key = 'config'", "meta.config is empty"),
        ("UPDATE meta SET value = x'7b7d' WHERE key = 'config'", "meta.value has a value"),
        ("UPDATE meta SET value = CAST(x'ff7b' AS TEXT) WHERE key = 'config'", "is not a study, or it is damaged"),
        ("UPDATE meta SET value = 'NaN' WHERE key = 'elapsed_s'", "meta.elapsed_s is not JSON"),
        ("UPDATE meta SET value = '\"soon\"' WHERE key = 'elapsed_s'", "meta.elapsed_s must be a number"),
        ("UPDATE meta SET value = '-1' WHERE key = 'elapsed_s'", "meta.elapsed_s must be a number"),
        ("UPDATE meta SET value = '1e999' WHERE key = 'elapsed_s'", "meta.elapsed_s must be a number"),
        ("UPDATE candidates SET genome = 'text' WHERE id = 3", "candidates.genome has a value"),
        ("UPDATE candidates SET genome = 5 WHERE id = 3", "candidates.genome has a value"),
        ("UPDATE candidates SET genome = x'0001' WHERE id = 3", "candidates.genome has a value"),
        ("UPDATE candidates SET genome = x'' WHERE id = 0", "candidates.genome has a value"),
        ("UPDATE candidates SET genome = CAST(genome || x'0000' AS BLOB)", "dimensions of autoformer-micro"),
        (
            "UPDATE candidates SET genome = CAST(x'ffff' || substr(genome, 3) AS BLOB) WHERE id = 3",
            "candidates.genome must be a network of autoformer-micro",
        ),
        (
            "UPDATE candidates SET genome = CAST(x'ff7f' || substr(genome, 3) AS BLOB) WHERE id = 3",
            "candidates.genome must be a network of autoformer-micro",
        ),
        ("UPDATE candidates SET generation = 'first' WHERE id = 3", "candidates.generation has a value"),
        ("UPDATE candidates SET generation = -1 WHERE id = 3", "candidates.generation has a value"),
        ("UPDATE candidates SET generation = 1e300 WHERE id = 3", "candidates.generation has a value"),
        ("UPDATE candidates SET generation = 9 WHERE id = 3", "candidates.generation must not decrease"),
        ("UPDATE candidates SET id = 99 WHERE id = 3", "candidates.id has a value"),
        ("UPDATE candidates SET id = -1 WHERE id = 3", "candidates.id has a value"),
        ("UPDATE candidates SET arch_id = x'00' WHERE id = 3", "candidates.arch_id has a value"),
        ("UPDATE candidates SET arch_id = hex(zeroblob(1000)) WHERE id = 3", "candidates.arch_id has a value"),
        ("UPDATE candidates SET arch_id = CAST(x'ff' AS TEXT) WHERE id = 3", "is not a study, or it is damaged"),
        ("UPDATE metrics SET name = 'speed' WHERE id = 1", "metrics.name must be a metric: metric 'speed'"),
        ("UPDATE metrics SET name = x'00' WHERE id = 1", "metrics.name has a value"),
        ("UPDATE metrics SET name = CAST(x'ff' AS TEXT) WHERE id = 1", "is not a study, or it is damaged"),
        ("DELETE FROM metrics", "evaluations of a metric that is not there"),
        ("UPDATE evaluations SET value = 'fast'", "must be numbers"),
        ("UPDATE evaluations SET value = x'ff' WHERE candidate = 2", "must be numbers"),
        ("UPDATE evaluations SET upper = 9e999 WHERE candidate = 2", "must be numbers"),
        ("UPDATE evaluations SET candidate = 99 WHERE candidate = 2", "evaluations.candidate must be the id"),
        ("UPDATE evaluations SET candidate = -1 WHERE candidate = 2", "evaluations.candidate must be the id"),
        ("UPDATE evaluations SET candidate = 1.5 WHERE candidate = 2", "evaluations.candidate must be the id"),
        ("UPDATE evaluations SET candidate = 'x' WHERE candidate = 2", "must be numbers"),
    ],
)
def test_contents_that_no_search_writes_are_refused_by_file_and_field(folder: Path, script: str, message: str) -> None:
    edit(folder, script)
    with pytest.raises(InputError) as caught:
        read_all(folder)
    assert message in str(caught.value)
    assert STUDY_FILE in caught.value.message


def test_values_that_could_not_be_determined_are_no_damage(folder: Path) -> None:
    edit(folder, "UPDATE evaluations SET value = NULL, lower = NULL, upper = NULL")
    with Study.read(folder) as study:
        assert np.isnan(study.table(["macs"]).metrics["macs"].mean).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"text that is no database, but long enough to be looked at as one" * 100,
        lambda data: data[:5000],
        lambda data: data[: len(data) // 2],
        lambda data: bytes(4096) + data[4096:],
        lambda data: data[:4096] + bytes(4096) + data[8192:],
        lambda data: data[:8192] + bytes(4096) + data[12288:],
        lambda data: data[:-4096] + bytes(4096),
        lambda data: data[:4096] + b"\xff" * 4096 + data[8192:],
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    data = (folder / STUDY_FILE).read_bytes()
    (folder / STUDY_FILE).write_bytes(damage(data))
    for act in (read_all, lambda path: Study.resume(path, config=CONFIG)):
        with pytest.raises(InputError, match=STUDY_FILE):
            act(folder)


def test_flipped_bytes_are_harmless_or_an_error(sound: Path, tmp_path: Path) -> None:
    data, draw, refused = (sound / STUDY_FILE).read_bytes(), random.Random(0), 0
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 4, 30))):
            changed[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / STUDY_FILE).write_bytes(changed)
        try:
            read_all(tmp_path)
        except InputError:
            refused += 1
    assert refused > 5


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_folder, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_only_an_ordinary_file_is_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / STUDY_FILE)
    for act in (Study.read, lambda path: Study.resume(path, config={})):
        with pytest.raises(InputError, match=r"ordinary file|symbolic link"):
            act(tmp_path)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_links_next_to_the_study_are_not_followed(folder: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "mine").write_text("precious")
    (folder / f"{STUDY_FILE}{suffix}").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="must not be a symbolic link"):
        Study.resume(folder, config=CONFIG)
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_journal_that_names_another_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / f"{STUDY_FILE}-journal").write_bytes(bytes(100) + bytes.fromhex("d9d505f920a163d7"))
    with pytest.raises(InputError, match="must not name another file"):
        Study.resume(folder, config=CONFIG)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_files, "_LOCKED_WAIT_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_study_that_another_program_has_locked_is_said_to_be_locked(folder: Path) -> None:
    with closing(sqlite3.connect(folder / STUDY_FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for act in (Study.read, lambda path: Study.resume(path, config=CONFIG)):
            with pytest.raises(InputError, match="is locked by another program"):
                act(folder)
    read_all(folder)


@pytest.mark.usefixtures("impatient")
def test_a_lock_in_the_middle_of_a_search_loses_nothing(folder: Path) -> None:
    genome = SPACE.encode([SPACE.largest()])
    with Study.resume(folder, config=CONFIG) as study:
        before = len(study)
        with closing(sqlite3.connect(folder / STUDY_FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(InputError, match="is locked by another program"):
                study.add(genome, generation=2, metrics={"macs": exact([1.0])}, sources={"macs": "analytic"})
        study.add(genome, generation=2, metrics={"macs": exact([1.0])}, sources={"macs": "analytic"})
        assert len(study) == before + 1


def test_a_reader_sees_one_state_while_a_search_writes(folder: Path) -> None:
    with Study.resume(folder, config=CONFIG) as writer, Study.read(folder) as reader:
        inserted: list[int] = []

        def trace(statement: str) -> None:
            if "SELECT candidate, value" in statement and not inserted:
                inserted.append(1)
                genome = SPACE.encode([SPACE.largest()])
                writer.add(genome, generation=2, metrics={"macs": exact([1.0])}, sources={"macs": "analytic"})

        reader._connection.set_trace_callback(trace)
        assert len(reader.table(space=SPACE).genomes) == 20
        assert inserted
        assert len(reader.table(space=SPACE).genomes) == 21


def test_a_full_disk_is_an_error_and_the_study_goes_on_when_there_is_room(folder: Path) -> None:
    with Study.resume(folder, config=CONFIG) as study:
        seen = GenomeSet()
        seen.add(study.table().genomes)
        genomes = SPACE.sample(np.random.default_rng(1), 4000)
        genomes = genomes[seen.is_new(genomes)]
        ((pages,),) = study._rows("PRAGMA page_count")
        study._rows(f"PRAGMA max_page_count = {pages}")  # SQLite then answers as on a full disk
        metrics = {"params": exact(np.arange(float(len(genomes))))}
        with pytest.raises(InputError, match=r"study\.sqlite cannot be written") as caught:
            study.add(genomes, generation=2, metrics=metrics, sources={"params": "analytic"})
    assert "full" in str(caught.value.got)
    assert "resumed" in str(caught.value.hint)
    with Study.resume(folder, config=CONFIG) as study:
        assert len(study) == 20
        assert "params" not in study.metrics
        study.add(genomes, generation=2, metrics=metrics, sources={"params": "analytic"})
        assert len(study) == 20 + len(genomes)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


_READ = """
import os, sys
from pathlib import Path
from hwnas.search.study import Source, Study
if os.geteuid() == 0:
    os.setuid(65534)  # the permissions of files do not bind root
assert not os.access(sys.argv[1], os.W_OK)
with Study.read(Path(sys.argv[1])) as study:
    print(len(study.table().genomes))
"""


def _read_without_permissions(folder: Path) -> subprocess.CompletedProcess[str]:
    for item in folder.iterdir():
        item.chmod(0o444)
    folder.chmod(0o555)
    try:
        return subprocess.run([sys.executable, "-c", _READ, str(folder)], capture_output=True, text=True, check=False)
    finally:
        folder.chmod(0o755)


def test_a_finished_study_is_read_in_a_folder_that_cannot_be_written(sound: Path, shared: Path) -> None:
    shutil.copy(sound / STUDY_FILE, shared)
    assert _read_without_permissions(shared).stdout == "20\n"


def test_a_study_in_wal_mode_is_read_without_its_log(folder: Path, shared: Path) -> None:
    with closing(sqlite3.connect(folder / STUDY_FILE)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    shutil.copy(folder / STUDY_FILE, shared)
    assert _read_without_permissions(shared).stdout == "20\n"


def test_a_log_that_cannot_be_used_is_an_error(folder: Path, shared: Path) -> None:
    with Study.resume(folder, config=CONFIG) as study:
        study.remember("elapsed_s", 2.0)
        for item in folder.glob(f"{STUDY_FILE}*"):
            if not item.name.endswith("-shm"):
                shutil.copy(item, shared)
    done = _read_without_permissions(shared)
    assert done.returncode == 1
    assert "study.sqlite cannot be opened" in done.stderr
