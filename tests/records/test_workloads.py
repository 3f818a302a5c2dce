import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.records.workloads import (
    TracedModels,
    load_workloads,
    operations_to_mappings,
    save_workloads,
    workload_from_mappings,
)
from hwnas.space import SPACES
from hwnas.workload import ONCE, Linear, Workload

SPACE = SPACES.get("autoformer-micro")
WORKLOAD = SPACE.workload(SPACE.largest())


def test_equal_operations_stand_once_with_their_number() -> None:
    one = Linear(name="a", tokens=4, inputs=8, outputs=2)
    rows = operations_to_mappings(Workload((one, Linear(name="b", tokens=4, inputs=8, outputs=2))))
    assert [(row["type"], row["times"], row["inputs"]) for row in rows] == [("Linear", 2, 8)]


def test_counts_survive() -> None:
    again = workload_from_mappings(operations_to_mappings(WORKLOAD))
    assert (again.macs, again.params) == (WORKLOAD.macs, WORKLOAD.params)
    assert again.bytes_read(precision="fp16") == WORKLOAD.bytes_read(precision="fp16")


def test_traits_survive_and_keep_equal_operations_apart() -> None:
    plain = Linear(name="a", tokens=4, inputs=8, outputs=2)
    again = workload_from_mappings(operations_to_mappings(Workload((plain, replace(plain, traits=(ONCE,))))))
    assert [operation.traits for operation in again.operations] == [(), (ONCE,)]


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    models = {("b", 224): WORKLOAD, ("b", 384): WORKLOAD, ("a", 96): None}
    traced = TracedModels(timm="1.0.31", models=models, own_sizes={"b": 224})
    save_workloads(traced, tmp_path / "w.gz")
    read = load_workloads(tmp_path / "w.gz")
    assert (read.timm, list(read.models)) == ("1.0.31", [("a", 96), ("b", 224), ("b", 384)])
    assert read.own_sizes == {"b": 224}
    assert read.models["a", 96] is None
    again = read.models["b", 224]
    assert again is not None
    assert again.macs == WORKLOAD.macs
    save_workloads(read, tmp_path / "again.gz")
    assert (tmp_path / "w.gz").read_bytes() == (tmp_path / "again.gz").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold JSON"),
        ("[]", "must hold traced models"),
        ('{"schema": "hwnas.workloads/9", "timm": "1", "num_models": 0}', "has an unsupported schema"),
        ('{"schema": "hwnas.workloads/2", "timm": "1", "num_models": 2}', "must hold 2 models"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "w.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match=message):
        load_workloads(tmp_path / "w.gz")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.gz").write_text("text")
    with pytest.raises(InputError, match="cannot be read"):
        load_workloads(tmp_path / "w.gz")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"text" * 99))
    packed[10] = 0xFF
    (tmp_path / "w.gz").write_bytes(packed)
    with pytest.raises(InputError, match="cannot be read"):
        load_workloads(tmp_path / "w.gz")
