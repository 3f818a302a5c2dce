"""Templates in memory and on disk, learned from graphs written by hand."""

import base64
import fcntl
import hashlib
import json
import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from hwnas.data_paths import cache_folder
from hwnas.errors import InputError
from hwnas.export.templates import (
    EXPORTING,
    SCHEMA,
    TemplateStore,
    _code_digest,
    _versions,
    default_store,
    require_writable,
)

SIZES = [(4, 96), (3, 60), (5, 100), (6, 90), (7, 70)]


def graph(heads: int, width: int, *, op: str = "Relu") -> onnx.ModelProto:
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, heads, width // heads])
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["a"]), helper.make_node(op, ["a"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, heads, width // heads])]
    body = helper.make_graph(nodes, "g", inputs, outputs, [shape])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def sizes(heads: int, width: int) -> dict[str, int | float]:
    return {"heads": heads, "width": width}


def learned(folder: Path | None) -> TemplateStore:
    store = TemplateStore(folder)
    for pair in SIZES:
        store.get("text").learn(sizes(*pair), graph(*pair))
    store.save("text")
    return store


def test_a_template_knows_what_it_saw_and_infers_the_rest() -> None:
    template = learned(None).get("text")
    known, inferred = template.find(sizes(3, 60)), template.infer(sizes(8, 200))
    assert known is not None
    assert known.output_shape == (1, 3, 20)
    assert template.find(sizes(8, 200)) is None
    assert inferred is not None
    assert inferred.output_shape == (1, 8, 25)
    template.remember(sizes(8, 200), inferred)
    assert template.find(sizes(8, 200)) is inferred


def test_two_variants_of_a_structure_are_ambiguous() -> None:
    template = learned(None).get("text")
    template.learn(sizes(9, 90), graph(9, 90, op="Tanh"))
    assert template.infer(sizes(8, 200)) is None
    known = template.find(sizes(9, 90))
    assert known is not None
    assert [node.op_type for node in known.nodes] == ["Reshape", "Tanh"]


def test_a_refuted_template_infers_nothing() -> None:
    template = learned(None).get("text")
    template.is_refuted = True
    assert template.infer(sizes(8, 200)) is None


def test_templates_outlast_the_process(tmp_path: Path) -> None:
    learned(tmp_path).get("text")
    again = TemplateStore(tmp_path).get("text")
    assert again.num_instances == len(SIZES)
    inferred = again.infer(sizes(8, 200))
    assert inferred is not None
    assert inferred.output_shape == (1, 8, 25)
    assert TemplateStore(tmp_path).get("another text").num_instances == 0


def test_two_processes_that_learn_at_once_both_keep_what_they_learned(tmp_path: Path) -> None:
    one, other = TemplateStore(tmp_path), TemplateStore(tmp_path)
    for store, pairs in ((one, SIZES[:2]), (other, SIZES[1:4])):
        for pair in pairs:
            store.get("text").learn(sizes(*pair), graph(*pair))
    one.get("text").is_verified = True
    one.save("text")
    other.save("text")
    again = TemplateStore(tmp_path).get("text")
    assert again.num_instances == 4
    assert again.is_verified
    other.get("text").is_refuted = True
    other.save("text")
    one.get("text").learn(sizes(9, 90), graph(9, 90, op="Tanh"))
    one.save("text")
    again = TemplateStore(tmp_path).get("text")
    assert (again.num_instances, len(again.variants)) == (5, 2)
    assert (again.is_verified, again.is_refuted) == (False, True)


def resealed(text: str) -> str:
    """The same file with a number less in each instance, and the right digest."""
    content = json.loads(json.loads(text)["content"])
    for variant in content["variants"]:
        variant["numbers"] = [row[1:] for row in variant["numbers"]]
    return sealed(content)


def sealed(content: object) -> str:
    text = json.dumps(content)
    return json.dumps({"schema": SCHEMA, "sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "no base64"),
        ("model", base64.b64encode(b"no graph").decode()),
        ("model", ""),
        ("model", 3),
        ("sizes", {}),
        ("sizes", [[1]]),
        ("sizes", [{"a": "1"}]),
        ("sizes", []),
        ("numbers", [[float("inf")]]),
        ("numbers", [[10**400]]),
        ("numbers", "1"),
        ("other", 1),
    ],
)
def test_a_file_of_other_content_is_no_template(tmp_path: Path, field: str, value: object) -> None:
    learned(tmp_path)
    (file,) = (tmp_path / "templates").iterdir()
    content = json.loads(json.loads(file.read_text())["content"])
    content["variants"][0][field] = value
    file.write_text(sealed(content))
    assert TemplateStore(tmp_path).get("text").num_instances == 0


def test_a_named_pipe_is_no_template(tmp_path: Path) -> None:
    learned(tmp_path)
    (file,) = (tmp_path / "templates").iterdir()
    file.unlink()
    os.mkfifo(file)
    assert TemplateStore(tmp_path).get("text").num_instances == 0
    learned(tmp_path)  # an ordinary file replaces it
    assert TemplateStore(tmp_path).get("text").num_instances == len(SIZES)


def test_a_lock_that_another_process_keeps_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hwnas.export.templates.LOCK_TIMEOUT_S", 0.1)
    with (tmp_path / ".templates.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        learned(tmp_path)
    assert "is not saved: another process holds .templates.lock" in caplog.text
    assert TemplateStore(tmp_path).get("text").num_instances == 0


def test_a_folder_with_too_long_a_name_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cache of exported blocks") as caught:
        learned(tmp_path / ("x" * 300))
    assert caught.value.hint == "HWNAS_CACHE=DIR for another folder"


@pytest.mark.parametrize(
    "damage", ["", "{", "null", '{"schema": "hwnas.templates/0"}', "cut", "changed", "resealed", "deep"]
)
def test_a_damaged_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    learned(tmp_path)
    (file,) = (tmp_path / "templates").iterdir()
    text = file.read_text()
    damaged = {"cut": text[:-40], "changed": text.replace("96", "97"), "resealed": resealed(text), "deep": "[" * 10**5}
    file.write_text(damaged.get(damage, damage))
    store = TemplateStore(tmp_path)
    assert store.get("text").num_instances == 0
    assert f"{file} cannot be read" in caplog.text
    learned(tmp_path)
    assert TemplateStore(tmp_path).get("text").num_instances == len(SIZES)


def test_other_versions_have_other_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned(tmp_path)
    monkeypatch.setattr("hwnas.export.templates._versions", lambda: "torch 99")
    assert TemplateStore(tmp_path).get("text").num_instances == 0


def test_nothing_is_kept_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learned(None)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_users_cache_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HWNAS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/hwnas")
    monkeypatch.setenv("HWNAS_CACHE", "/else")
    assert cache_folder() == Path("/else")
    assert default_store() is default_store()


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    learned(tmp_path)
    (file,) = (tmp_path / "templates").iterdir()
    stored = json.loads(file.read_text())
    assert stored["schema"] == "hwnas.templates/1"
    assert json.loads(stored["content"])["structure"] == "text"


def test_other_exporting_code_has_other_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EXPORTING:
        (tmp_path / f"{name}.py").write_text(name)
    digests = {_code_digest(tmp_path)}
    for name in EXPORTING:
        (tmp_path / f"{name}.py").write_text(f"{name} changed")
        digests.add(_code_digest(tmp_path))
    assert len(digests) == 1 + len(EXPORTING)
    before = _versions()
    _versions.cache_clear()
    monkeypatch.setattr("hwnas.export.templates.hwnas_version", lambda: "99")
    assert _versions() != before
    _versions.cache_clear()


def test_a_folder_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    require_writable(tmp_path / "cache")
    assert list((tmp_path / "cache" / "templates").iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written") as caught:
        require_writable(tmp_path / "file")
    assert caught.value.hint == "HWNAS_CACHE=DIR for another folder"
    with pytest.raises(InputError, match="cannot be written"):
        learned(tmp_path / "file")
