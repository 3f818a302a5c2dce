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


LINEAR = {"type": "Linear", "times": 1, "shared": 0, "tokens": 4, "inputs": 8, "outputs": 2, "bias": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "Operation"}, "operation 0: type 'Operation' is not known"),
        ({"type": "Workload"}, "type 'Workload' is not known"),
        ({"type": "np"}, "type 'np' is not known"),
        ({"type": ["Linear"]}, "is not known"),
        ({"inputs": -1}, "inputs must be a whole number from 0"),
        ({"inputs": 10**30}, "inputs must be a whole number from 0"),
        ({"inputs": True}, "inputs must be a whole number from 0"),
        ({"inputs": 1.5}, "inputs must be a whole number from 0"),
        ({"inputs": 2**40, "outputs": 2**40}, "the counts of an operation must be at most"),
        ({"colour": 1}, "key 'colour' is not known"),
        ({"__class__": 1}, "key '__class__' is not known"),
        ({"traits": ["fast"]}, "traits must be some of once, strided, float32"),
        ({"traits": "once"}, "traits must be some of"),
        ({"variant": "<script>"}, "variant must be the name of an operation"),
    ],
)
def test_an_operation_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        workload_from_mappings([{**LINEAR, **change}])


def test_an_operation_that_lacks_a_size_is_refused() -> None:
    with pytest.raises(InputError, match="a workload, operation 0: inputs is missing"):
        workload_from_mappings([{name: value for name, value in LINEAR.items() if name != "inputs"}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[]", "line 2 must be a table"),
        ("{", "line 2 is not JSON"),
        ('{"name": "a", "image_size": 224}', r"line 2\.operations is missing"),
        ('{"name": "a", "image_size": [224], "operations": null}', r"line 2\.image_size must be a whole number"),
        ('{"name": "a", "image_size": 224, "operations": [7]}', "line 2, operation 0: an operation must be a table"),
        ('{"name": "a", "image_size": 224, "operations": [{}]}', "line 2, operation 0: type 'None' is not known"),
    ],
)
def test_a_row_that_is_no_model_is_refused(tmp_path: Path, row: str, message: str) -> None:
    text = '{"schema": "hwnas.workloads/2", "timm": "1", "num_models": 1}\n' + row
    (tmp_path / "w.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match=message):
        load_workloads(tmp_path / "w.gz")


def test_a_file_that_unpacks_to_more_than_any_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.records.workloads._MAX_BYTES", 1 << 20)
    (tmp_path / "w.gz").write_bytes(gzip.compress(b" " * (1 << 21)))
    with pytest.raises(InputError, match="must hold at most 1 MiB"):
        load_workloads(tmp_path / "w.gz")
